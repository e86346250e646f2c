"""A training checkpoint becomes the plain student's, and nothing else."""

import copy
import re

import pytest
import torch
import toys
from helpers import build, distill_cfg
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kd_mm.errors import ConfigError
from kd_mm.utils.export import build_plain, export_student, plain_student
from kd_mm.utils.loading import check_fits


def distilled_config():
    links = dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1],
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=1.0),
        )
    )
    teacher = dict(config=dict(model=toys.retinanet(width=24)), allow_random=True)
    return Config(
        dict(
            default_scope='mmdet',
            fitnet_fpn=links,
            model=dict(
                type='kd_mm.Distill',
                student=toys.retinanet(),
                teacher=teacher,
                links=links,
            ),
            custom_hooks=[dict(type='kd_mm.DistillHook'), dict(type='EMAHook')],
            train_dataloader=dict(batch_size=2),
        )
    )


def test_a_preprocessor_beside_the_student_goes_with_it():
    cfg = distilled_config()
    given = cfg.model.student.pop('data_preprocessor')
    cfg.model.data_preprocessor = given
    assert plain_student(cfg).model.data_preprocessor == given


@pytest.fixture(scope='module')
def parts():
    """The distilled config and the content of a checkpoint of its run with EMA."""
    cfg = distilled_config()
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        state = MODELS.build(cfg.model).state_dict()
    raw = {f'module.{k}': v + 1 for k, v in state.items()}
    checkpoint = dict(
        meta=dict(cfg=cfg.pretty_text, epoch=3, iter=12, dataset_meta=dict(classes=1)),
        state_dict=state,
        ema_state_dict={'steps': torch.tensor(12), **raw},
        optimizer=dict(state={}, param_groups=[]),
        param_schedulers=[],
        message_hub=dict(),
    )
    return cfg, checkpoint


@pytest.fixture
def saved(parts, tmp_path):
    torch.save(parts[1], tmp_path / 'epoch_3.pth')
    return str(tmp_path / 'epoch_3.pth')


def test_export_leaves_only_the_plain_student(parts, saved, tmp_path):
    done = export_student(saved, str(tmp_path / 'out.pth'))
    # the safe loader reads it: nothing but tensors and plain values is inside
    out = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert set(out) == {'meta', 'state_dict'}
    assert not any(key.startswith('distiller.') for key in out['state_dict'])
    assert done['dropped'] == len(parts[1]['state_dict']) - len(out['state_dict']) > 0
    assert done['size_after'] < done['size_before']
    assert out['meta']['dataset_meta'] == dict(classes=1)
    cfg = Config.fromstring(out['meta']['cfg'], '.py')
    assert cfg.model.type == 'mmdet.RetinaNet' and 'kd_mm' not in cfg.pretty_text
    assert cfg.train_dataloader.batch_size == 2
    with DefaultScope.overwrite_default_scope('mmdet'):
        MODELS.build(cfg.model).load_state_dict(out['state_dict'], strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_3.pth', 'out.pth']


@pytest.mark.parametrize('weights, shift', [('saved', 0), ('ema', 0), ('raw', 1)])
def test_export_picks_average_or_raw_weights(parts, saved, tmp_path, weights, shift):
    export_student(saved, str(tmp_path / 'out.pth'), weights=weights)
    out = torch.load(tmp_path / 'out.pth', weights_only=True)
    for key, value in out['state_dict'].items():
        assert torch.equal(value, parts[1]['state_dict'][key] + shift)
    assert out['meta']['weights'] == ('raw' if shift else 'ema')


def test_export_trims_a_plain_checkpoint(parts, tmp_path):
    cfg, _ = parts
    with DefaultScope.overwrite_default_scope('mmdet'):
        state = MODELS.build(cfg.model.student).state_dict()
    plain = plain_student(cfg)
    content = dict(meta=dict(cfg=plain.pretty_text), state_dict=state, optimizer={})
    torch.save(content, tmp_path / 'a.pth')
    done = export_student(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'))
    assert done['dropped'] == 0 and done['weights'] == 'raw'
    with pytest.raises(ConfigError, match='no average'):
        export_student(str(tmp_path / 'a.pth'), str(tmp_path / 'c.pth'), weights='ema')


def test_export_takes_another_config(parts, tmp_path):
    cfg, checkpoint = parts
    torch.save(dict(state_dict=checkpoint['state_dict']), tmp_path / 'a.pth')
    paths = str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')
    with pytest.raises(ConfigError, match='give --config'):
        export_student(*paths)
    cfg.dump(tmp_path / 'cfg.py')
    export_student(*paths, config=str(tmp_path / 'cfg.py'))
    wrong = distilled_config()
    wrong.model.student = toys.retinanet(classes=7)
    wrong.dump(tmp_path / 'wrong.py')
    with pytest.raises(ConfigError, match='does not fit'):
        export_student(*paths, config=str(tmp_path / 'wrong.py'), force=True)


def test_export_never_replaces_or_leaves_half_a_file(saved, tmp_path, monkeypatch):
    out = tmp_path / 'out.pth'
    out.write_text('mine')
    with pytest.raises(ConfigError, match='exists already'):
        export_student(saved, str(out))
    with pytest.raises(ConfigError, match='is the checkpoint itself'):
        export_student(saved, saved, force=True)
    with pytest.raises(ConfigError, match='folder'):
        export_student(saved, str(tmp_path / 'no' / 'out.pth'))

    def fail(content, file):
        file.write(b'half')
        raise OSError('no space left')

    with monkeypatch.context() as patch:
        patch.setattr('kd_mm.utils.export.torch.save', fail)
        with pytest.raises(OSError, match='no space'):
            export_student(saved, str(out), force=True)
    assert out.read_text() == 'mine'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_3.pth', 'out.pth']
    export_student(saved, str(out), force=True)
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    'content, message',
    [
        (b'not a checkpoint', 'is a text'),
        (dict(weights=torch.ones(1)), 'has no config inside'),
        (
            dict(state_dict={'a': torch.ones(1)}, meta=dict(cfg='a = = 1')),
            'cannot be read',
        ),
    ],
)
def test_export_says_what_is_wrong_with_a_checkpoint(tmp_path, content, message):
    path = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        export_student(str(path), str(tmp_path / 'b.pth'))
    with pytest.raises(ConfigError, match=re.escape('no.pth does not exist')):
        export_student('no.pth', str(tmp_path / 'b.pth'))


def test_check_fits_tells_another_models_checkpoint(parts, saved):
    cfg, _ = parts
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_fits(MODELS.build(cfg.model.student), saved)
        with pytest.raises(ConfigError, match='of another model'):
            check_fits(MODELS.build(toys.retinanet(width=8)), saved)


def test_check_fits_takes_a_plain_students_checkpoint_for_a_distilled_model(tmp_path):
    small = toys.classifier()
    links = dict(
        vector=dict(
            student='neck[2]',
            teacher='neck[2]',
            criterion=dict(type='kd_mm.CRDLoss', images=8, negatives=4),
        )
    )
    for i in range(30):  # more tensors of the distiller than a tenth of all
        links[f'vector{i}'] = dict(links['vector'])
    torch.save(dict(state_dict=build(small).state_dict()), tmp_path / 'plain.pth')
    check_fits(build(distill_cfg(small, small, links)), str(tmp_path / 'plain.pth'))


def test_plain_student_leaves_a_plain_config_alone(parts):
    cfg = plain_student(parts[0])
    assert plain_student(cfg) is cfg
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.'])
def test_bare_and_wrapped_state_dicts_are_taken(parts, tmp_path, prefix):
    cfg, checkpoint = parts
    state = {f'{prefix}{k}': v for k, v in checkpoint['state_dict'].items()}
    torch.save(state, tmp_path / 'bare.pth')
    cfg.dump(tmp_path / 'cfg.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_fits(MODELS.build(cfg.model.student), tmp_path / 'bare.pth')
    out = tmp_path / 'out.pth'
    export_student(tmp_path / 'bare.pth', out, config=str(tmp_path / 'cfg.py'))
    got = torch.load(out, weights_only=True)['state_dict']
    for key, value in got.items():
        assert torch.equal(value, checkpoint['state_dict'][key]), key


def test_half_precision_halves_the_file_and_loads(parts, saved, tmp_path):
    whole = export_student(saved, str(tmp_path / 'whole.pth'))
    half = export_student(saved, str(tmp_path / 'half.pth'), half=True)
    assert half['size_after'] < 0.65 * whole['size_after']
    state = torch.load(tmp_path / 'half.pth', weights_only=False)['state_dict']
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(parts[0].model.student)
    model.load_state_dict(state, strict=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(
            value, parts[1]['state_dict'][key], rtol=1e-3, atol=1e-4
        )


@MODELS.register_module()
def a_factory_around_ours(**kwargs):
    return MODELS.build(dict(kwargs, type='kd_mm.Distill'))


def test_code_of_a_runs_own_is_said_to_need_its_config():
    cfg = Config(dict(model=dict(type='MyOwn'), custom_imports=dict(imports='mine')))
    with pytest.raises(ConfigError, match='MyOwn cannot be built.*--config FILE'):
        build_plain(cfg)


def test_export_refuses_a_config_that_still_distils(parts, tmp_path):
    cfg, checkpoint = copy.deepcopy(parts[0]), parts[1]
    cfg.model.type = 'mmengine.a_factory_around_ours'
    cfg.dump(tmp_path / 'cfg.py')
    torch.save(checkpoint, tmp_path / 'a.pth')
    paths = str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')
    with pytest.raises(ConfigError, match='a_factory_around_ours builds a distilled'):
        export_student(*paths, config=str(tmp_path / 'cfg.py'))
    assert not (tmp_path / 'b.pth').exists()
