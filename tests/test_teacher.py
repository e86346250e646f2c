"""The teacher: where it comes from, what it is fed, how far it runs."""

import copy

import pytest
import query_toys
import torch
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    fitnet,
    link,
    losses_of,
)
from mmdet.models import RetinaNet
from mmengine.registry import MODELS, DefaultScope

import kd_mm
from kd_mm.errors import ConfigError
from kd_mm.preprocess import InputBridge
from kd_mm.teacher import Teacher


def plain(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(copy.deepcopy(cfg))


def save(model, path, **extra):
    torch.save(dict(state_dict=model.state_dict(), **extra), path)
    return str(path)


def with_teacher(**teacher):
    return distill_cfg(toys.retinanet(), None) | dict(teacher=teacher)


def same(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_comes_from_an_inline_dict_a_file_or_a_package(tmp_path):
    cfg = toys.retinanet(width=24)
    weights = plain(cfg)
    path = save(weights, tmp_path / 'teacher.pth')
    (tmp_path / 'teacher.py').write_text(
        f'default_scope = "mmdet"\nmodel = {dict(cfg)}'
    )
    for config in (cfg, dict(model=cfg), str(tmp_path / 'teacher.py')):
        model = build(with_teacher(config=config, checkpoint=path))
        assert same(model.distiller.teacher.model, weights)
    model = build(
        with_teacher(
            config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', allow_random=True
        )
        | dict(links=fitnet(levels=[0, 1, 2]))
    )
    assert type(model.distiller.teacher.model).__name__ == 'YOLOX'


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.'])
@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_weights_are_found_wherever_a_file_keeps_them(tmp_path, prefix, key):
    cfg = toys.retinanet(width=24)
    weights = plain(cfg)
    state = {f'{prefix}{k}': v for k, v in weights.state_dict().items()}
    path = tmp_path / 'teacher.pth'
    torch.save({key: state} if key else state, path)
    model = build(with_teacher(config=cfg, checkpoint=path))  # a pathlib path
    assert same(model.distiller.teacher.model, weights)


def test_config_and_checkpoint_are_paths_of_pathlib_too(tmp_path):
    cfg = toys.retinanet(width=24)
    (tmp_path / 'teacher.py').write_text(f'model = {dict(cfg)}')
    path = tmp_path / 'teacher.pth'
    save(plain(cfg), path)
    build(with_teacher(config=tmp_path / 'teacher.py', checkpoint=path))
    with pytest.raises(ConfigError, match='teacher.checkpoint .*no.pth does not exist'):
        build(with_teacher(config=cfg, checkpoint=tmp_path / 'no.pth'))
    with pytest.raises(ConfigError, match='expected .* a path, a dict or a network'):
        build(with_teacher(config=3, checkpoint=path))


def test_weights_that_do_not_arrive_are_told(tmp_path, monkeypatch):
    cfg = toys.retinanet(width=24)
    path = save(plain(cfg), tmp_path / 'teacher.pth')

    def without(module, state, prefix, *_):
        for name in [k for k in state if 'fpn_convs' in k]:
            state[name.replace('fpn_convs', 'old_convs')] = state.pop(name)

    build_teacher = MODELS.build

    def with_hook(cfg, *args, **kwargs):
        model = build_teacher(cfg, *args, **kwargs)
        model.register_load_state_dict_pre_hook(without)
        return model

    monkeypatch.setattr('kd_mm.teacher.MODELS.build', with_hook)
    with pytest.raises(ConfigError, match='did not arrive .neck.fpn_convs'):
        build(with_teacher(config=cfg, checkpoint=path))


def test_a_distilled_checkpoint_and_config_can_teach(tmp_path):
    middle_cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    middle = build(middle_cfg)
    path = save(middle, tmp_path / 'middle.pth')
    model = build(with_teacher(config=dict(model=middle_cfg), checkpoint=path))
    own = model.distiller.teacher.model.state_dict()
    assert not any(key.startswith('distiller') for key in own)
    assert all(
        torch.equal(value, middle.state_dict()[key]) for key, value in own.items()
    )


def test_a_checkpoint_that_does_not_cover_the_teacher_is_refused(tmp_path):
    cfg = toys.retinanet(width=24)
    state = plain(cfg).state_dict()
    state.pop('neck.fpn_convs.0.conv.weight')
    torch.save(dict(state_dict=state), tmp_path / 'part.pth')
    with pytest.raises(
        ConfigError, match='1 of .* missing .neck.fpn_convs.0.conv.weight'
    ):
        build(with_teacher(config=cfg, checkpoint=str(tmp_path / 'part.pth')))
    other = save(plain(toys.retinanet(width=16)), tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match=r'other shapes .*\(16, .* for \(24, '):
        build(with_teacher(config=cfg, checkpoint=other))
    (tmp_path / 'broken.pth').write_text('not a checkpoint')
    with pytest.raises(ConfigError, match='is a text'):
        build(with_teacher(config=cfg, checkpoint=str(tmp_path / 'broken.pth')))


def test_building_leaves_the_configs_as_they_are():
    """Deformable DETR puts settings into its head's config and refuses them then."""
    cfg = toys.retinanet()
    before = copy.deepcopy(cfg)

    @MODELS.register_module(force=True)
    class ChangesItsConfig(RetinaNet):
        def __init__(self, bbox_head, **kwargs):
            assert 'changed' not in bbox_head
            super().__init__(bbox_head=dict(bbox_head), **kwargs)
            bbox_head['changed'] = True

    cfg.type = before.type = 'mmengine.ChangesItsConfig'
    build(distill_cfg(cfg, cfg))
    wanted = distill_cfg(cfg, cfg)
    for _ in range(2):
        with DefaultScope.overwrite_default_scope('mmdet'):
            MODELS.build(wanted)
    assert cfg == before


def test_runs_only_as_far_as_the_last_tap():
    model = build(distill_cfg(toys.faster_rcnn(), toys.faster_rcnn(width=24)))
    teacher = model.distiller.teacher.model
    ran = []
    for name in ('rpn_head', 'roi_head'):
        for module in getattr(teacher, name).modules():
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    data = model.data_preprocessor(detection_batch(), True)
    model(**data, mode='loss')
    assert not ran


def test_whoever_runs_it_to_its_end_has_all_of_it_on_one_device():
    """What no tap needs stays behind when the student moves."""
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(width=24)))
    guide = model.distiller.teacher
    model.to('meta')
    parts = guide.model.backbone, guide.model.bbox_head
    assert [next(m.parameters()).device.type for m in parts] == ['meta', 'cpu']
    tensors = guide.whole().state_dict().values()
    assert {tensor.device.type for tensor in tensors} == {'meta'}


def test_a_link_that_has_ended_shortens_the_teachers_way():
    links = fitnet(levels=[0])
    links['head'] = dict(
        student='bbox_head[0]',
        teacher='bbox_head[0]',
        criterion=dict(type='kd_mm.KDLoss', sigmoid=True, weight=0.0),
    )
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(width=24), links))
    teacher = model.distiller.teacher.model
    teacher.bbox_head.forward = lambda *_: pytest.fail('the head ran')
    data = model.data_preprocessor(detection_batch(), True)
    losses = model(**data, mode='loss')
    assert float(losses['loss_kd_fpn']) > 0 and float(losses['loss_kd_head']) == 0


PREPROCESSORS = [
    dict(),
    dict(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=False, pad_value=114),
    dict(mean=[103.53, 116.28, 123.675], std=[1, 1, 1], bgr_to_rgb=False),
    dict(mean=[127.5] * 3, std=[127.5] * 3, pad_value=-1, pad_size_divisor=128),
]


@pytest.mark.parametrize('theirs', PREPROCESSORS)
@pytest.mark.parametrize('ours', PREPROCESSORS)
def test_sees_what_its_own_preprocessor_would_have_made(ours, theirs):
    student, teacher = plain(toys.retinanet(**ours)), plain(toys.retinanet(**theirs))
    batch = detection_batch(sizes=[(3, 96, 128), (3, 128, 70)])
    seen = student.data_preprocessor(copy.deepcopy(batch), True)
    expected = teacher.data_preprocessor(copy.deepcopy(batch), True)['inputs']
    bridge = InputBridge(
        student=student.data_preprocessor, teacher=teacher.data_preprocessor
    )
    got = bridge(seen['inputs'], seen['data_samples'])
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-5)
    if ours == theirs:
        assert got is seen['inputs']


def test_sizes_that_pipelines_leave_behind_paint_over_nothing():
    """torchvision's transforms keep `img_shape` as it was in the file."""
    student = build(distill_cfg(toys.classifier(), toys.classifier(base=16), 'kd'))
    pre = copy.deepcopy(student.data_preprocessor)
    pre.mean, pre.std = pre.mean + 20, pre.std * 2
    bridge = InputBridge(student=student.data_preprocessor, teacher=pre)
    batch = student.data_preprocessor(classification_batch(size=64), True)
    plainly = bridge(batch['inputs'], None)
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(img_shape=(32, 32)))
    assert bridge.pad_differs
    assert torch.equal(bridge(batch['inputs'], batch['data_samples']), plainly)


def test_a_classifier_sees_the_same_mixed_images():
    augment = dict(augments=dict(type='Mixup', alpha=1.0))
    student = toys.classifier()
    student.data_preprocessor.batch_augments = augment
    student.head.loss.use_soft = True
    teacher = toys.classifier(base=16)
    teacher.data_preprocessor.update(mean=[0] * 3, std=[1] * 3, to_rgb=False)
    links = dict(
        logits=dict(student='head', teacher='head', criterion=dict(type='kd_mm.KDLoss'))
    )
    model = build(distill_cfg(student, teacher, links))
    fed = []
    model.distiller.teacher.model.backbone.register_forward_pre_hook(
        lambda _, args: fed.append(args[0])
    )
    data = model.data_preprocessor(classification_batch(), True)
    assert float(model(**data, mode='loss')['loss_kd_logits']) > 0
    pre = model.data_preprocessor
    raw = (data['inputs'] * pre.std + pre.mean).flip(1)
    torch.testing.assert_close(fed[0], raw, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    'fast',
    [dict(dtype='bf16'), dict(channels_last=True), dict(compile=True)],
    ids=lambda fast: next(iter(fast)),
)
def test_the_fast_teacher_gives_nearly_the_same_features(fast, tmp_path):
    teacher = toys.retinanet(width=24, base=16)
    path = save(plain(teacher), tmp_path / 't.pth')
    data = detection_batch()
    features = []
    for option in ({}, fast):
        model = build(with_teacher(config=teacher, checkpoint=path, **option))
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        seen = model.distiller.teacher(batch['inputs'], batch['data_samples'], ['neck'])
        features.append(seen.features(model.distiller.taps['teacher'].taps['neck']))
        assert float(model(**batch, mode='loss')['loss_kd_fpn']) > 0
    for plain_feature, feature in zip(*features, strict=True):
        assert feature.dtype == torch.float32
        error = (feature - plain_feature).norm() / plain_feature.norm()
        assert float(error) < (0.03 if 'dtype' in fast else 1e-4)


SWIN = dict(
    type='mmdet.SwinTransformer', embed_dims=24, depths=(2, 2), num_heads=(2, 2),
    patch_size=8, strides=(8, 2), out_indices=(0, 1), window_size=7,
)  # fmt: skip


def test_a_teacher_in_bf16_that_makes_numbers_in_fp32():
    """Swin its attention masks, as a DETR the sines of its positions."""
    teacher = toys.retinanet(width=24)
    teacher.backbone = SWIN
    teacher.neck.update(in_channels=[24, 48], start_level=0)
    guide = dict(teacher_kwargs=dict(dtype='bf16'))
    model = build(
        distill_cfg(
            toys.retinanet(), teacher, link('neck', criterion='ATLoss'), **guide
        )
    )
    assert losses_of(model, detection_batch())['loss_kd_fpn'].isfinite()


def test_a_number_format_that_a_teacher_does_not_run_in_is_refused(monkeypatch):
    extract = RetinaNet.extract_feat

    def in_fp32(self, images):
        if images.dtype != torch.float32:
            raise RuntimeError('no such kernel')
        return extract(self, images)

    monkeypatch.setattr(RetinaNet, 'extract_feat', in_fp32)
    teacher = toys.retinanet(width=24)
    with pytest.raises(ConfigError, match='teacher.dtype: RetinaNet does not run in'):
        build(distill_cfg(toys.retinanet(), teacher, teacher_kwargs=dict(dtype='bf16')))


def test_inherits_where_names_and_shapes_match(tmp_path):
    teacher = toys.retinanet(width=16, base=16)  # a wider backbone, the same head
    path = save(plain(teacher), tmp_path / 't.pth')
    model = build(
        with_teacher(config=teacher, checkpoint=path)
        | dict(inherit=['neck', 'bbox_head'], links=fitnet())
    )
    theirs = model.distiller.teacher.model.state_dict()
    for key, value in model.state_dict().items():
        if key.startswith(('bbox_head.', 'neck.fpn_convs.0')):
            assert torch.equal(value, theirs[key]), key
    own = model.state_dict()['neck.lateral_convs.0.conv.weight']
    assert own.shape != theirs['neck.lateral_convs.0.conv.weight'].shape
    with pytest.raises(ConfigError, match='nothing under'):
        build(
            with_teacher(config=toys.yolox(), allow_random=True)
            | dict(inherit=['backbone'], links=fitnet(levels=[0, 1, 2]))
        )


@pytest.mark.parametrize('teacher', ['ema', 'two'])
def test_who_inherits_has_one_teacher_with_weights_of_its_own(teacher):
    guide = dict(config=toys.retinanet(width=24), allow_random=True)
    taught = 'ema' if teacher == 'ema' else dict(a=guide, b=guide)
    cfg = distill_cfg(toys.retinanet(), None) | dict(
        teacher=taught, inherit=['bbox_head']
    )
    with pytest.raises(ConfigError, match='inherit=.*one teacher.*(ema|a, b)'):
        build(cfg)


def test_a_network_that_was_built_inherits_at_once():
    """A loop of one's own need not call `init_weights`."""
    student, teacher = (plain(toys.retinanet(width=16)) for _ in range(2))
    with torch.no_grad():
        teacher.bbox_head.retina_cls.bias.fill_(3.0)
    guide = dict(config=teacher)
    model = kd_mm.Distill(
        student=student, teacher=guide, links=fitnet(), inherit=['bbox_head']
    )
    assert model.bbox_head.retina_cls.bias.eq(3).all()


def test_a_random_teacher_is_initialised_as_its_config_says(monkeypatch):
    """Level embeddings of DETRs hold what was in memory before, NaN for instance."""
    from mmdet.models.detectors import deformable_detr

    init = deformable_detr.DeformableDETR._init_layers

    def dirty(self):
        init(self)
        self.level_embed.data.fill_(float('nan'))

    monkeypatch.setattr(deformable_detr.DeformableDETR, '_init_layers', dirty)
    with DefaultScope.overwrite_default_scope('mmdet'):
        teacher = Teacher(config=query_toys.deformable_detr(), allow_random=True)
    assert all(p.isfinite().all() for p in teacher.model.parameters())
