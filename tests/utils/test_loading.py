"""Where a teacher's files are looked for."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from kd_mm.errors import ConfigError
from kd_mm.utils import loading


def test_the_weights_in_an_installed_package_are_found(tmp_path, monkeypatch):
    """`configs/...` of a packaged config lies in `.mim` when there is no checkout."""
    package = tmp_path / 'site-packages' / 'kd_mm'
    carried = package / '.mim' / 'configs' / 'teacher.pth'
    carried.parent.mkdir(parents=True)
    carried.touch()
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    monkeypatch.setattr(loading, '__file__', str(package / 'utils' / 'loading.py'))
    found = loading.find_file('configs/teacher.pth', key='teacher.checkpoint')
    assert found == str(carried)
    with pytest.raises(ConfigError, match='teacher.checkpoint'):
        loading.find_file('configs/no.pth', key='teacher.checkpoint')
    (tmp_path / 'elsewhere' / 'configs').mkdir()
    own = tmp_path / 'elsewhere' / 'configs' / 'teacher.pth'
    own.touch()  # a file of the user's comes first
    found = loading.find_file('configs/teacher.pth', key='teacher.checkpoint')
    assert (tmp_path / 'elsewhere' / found).samefile(own)


def test_a_packaged_teacher_that_does_not_exist_names_the_nearest():
    wrong = 'mmdet::retinanet/retinanet_r101_fpn_2x_coc.py'
    with pytest.raises(ConfigError, match='nearest: retinanet_r101_fpn_2x_coco'):
        loading.load_model_config(wrong)
    with pytest.raises(ConfigError, match="package 'mmdetect' is not installed"):
        loading.load_model_config(wrong.replace('mmdet', 'mmdetect'))
    model, scope = loading.load_model_config(wrong.replace('_coc.', '_coco.'))
    assert model.type == 'RetinaNet' and scope == 'mmdet'


def test_a_package_without_its_configs_says_what_brings_them(tmp_path, monkeypatch):
    """A checkout on the path that nobody installed."""
    bare = tmp_path / 'bare_checkout'
    bare.mkdir()
    (bare / '__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match='carries no configs.*pip install -e'):
        loading.find_config('bare_checkout::kd/some.py', key='teacher.config')


def classifier(backbone: dict, classes: int = 3):
    cfg = dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=16),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


def vit(size: int, classes: int = 3):
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
    sizes = dict(img_size=size, patch_size=8)
    return classifier(dict(type='VisionTransformer', arch=arch, **sizes), classes)


def swin(window: int):
    arch = dict(embed_dims=16, depths=[1], num_heads=[2], extra_norm_every_n_blocks=0)
    sizes = dict(img_size=32, window_size=window, out_indices=(0,))
    return classifier(dict(type='SwinTransformerV2', arch=arch, **sizes))


def saved(model, path, **renamed) -> str:
    state = model.state_dict()
    for new, old in renamed.items():
        state = {name.replace(new, old): value for name, value in state.items()}
    torch.save(dict(state_dict=state), path)
    return str(path)


@pytest.mark.parametrize('sizes', [(vit, 32, 64), (swin, 2, 4)])
def test_what_the_network_itself_resizes_while_loading_fits(tmp_path, sizes):
    make, theirs, ours = sizes
    weights, model = make(theirs), make(ours)
    for parameter in weights.parameters():
        parameter.data.normal_()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    loading.load_weights(model, saved(weights, tmp_path / 't.pth'), key='teacher')
    told = weights.state_dict()
    for name, value in model.state_dict().items():
        if value.shape == told[name].shape:
            assert torch.equal(value, told[name]), name
        else:  # of a window the network knows where its cells lie
            made = name in dict(model.named_buffers())
            assert torch.equal(value, start[name]) == made, name


def test_keys_that_the_network_itself_renames_while_loading_fit(tmp_path):
    weights, model = vit(32), vit(32)
    path = saved(weights, tmp_path / 't.pth', head='classifier')
    with pytest.raises(ConfigError, match='2 of .* are missing .head.fc.weight'):
        loading.load_weights(model, path, key='teacher')

    def rename(module, state, *_):
        for name in [k for k in state if k.startswith('classifier.')]:
            state[name.replace('classifier', 'head')] = state.pop(name)

    model.register_load_state_dict_pre_hook(rename)
    loading.load_weights(model, path, key='teacher')
    for name, value in weights.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_what_the_network_does_not_convert_is_refused_as_before(tmp_path):
    path = saved(vit(32, classes=5), tmp_path / 'classes.pth')
    with pytest.raises(ConfigError, match='2 have other shapes .head.fc.weight .5, 16'):
        loading.load_weights(vit(64), path, key='teacher')
    path = saved(vit(32), tmp_path / 'part.pth', layers='blocks')
    with pytest.raises(ConfigError, match='are missing .backbone.layers.0'):
        loading.load_weights(vit(64), path, key='teacher')

    def fails(*_):
        raise KeyError('relative_position_index')

    model = vit(64)
    model.register_load_state_dict_pre_hook(fails)
    path = saved(vit(32), tmp_path / 'whole.pth')
    with pytest.raises(ConfigError, match='1 have other shapes .backbone.pos_embed'):
        loading.load_weights(model, path, key='teacher')
