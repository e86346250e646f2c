"""A resumed run has back all that its checkpoint holds, or it is refused."""

import importlib.util
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import toys
from helpers import build, distill_cfg, fitnet
from helpers import runner as detection_runner
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import BaseClassifier
from test_promises_classification import runner as digits_runner
from torch import nn

from kd_mm.errors import ConfigError
from kd_mm.hooks.restore_hook import _kinds

EMA = dict(type='EMAHook', momentum=0.1)


@MODELS.register_module()
class RenamingClassifier(BaseClassifier):
    """Saves its network without ``model.``, like those of timm and Hugging Face."""

    def __init__(self, *, width=16, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        self.model = nn.Sequential()
        self.model.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.model.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
        )
        self._register_state_dict_hook(self._shorten)
        self._register_load_state_dict_pre_hook(self._lengthen)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.model(inputs)

    def loss(self, inputs, data_samples):
        target = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=nn.functional.cross_entropy(self.model(inputs), target))

    @staticmethod
    def _shorten(module, state, prefix, meta):
        return OrderedDict(
            (re.sub(f'^{prefix}model.', prefix, key), value)
            for key, value in state.items()
        )

    @staticmethod
    def _lengthen(state, prefix, *_):
        for key in list(state):
            state[re.sub(f'^{prefix}', f'{prefix}model.', key)] = state.pop(key)


PREPROCESSOR = dict(
    type='mmpretrain.ClsDataPreprocessor',
    num_classes=10,
    mean=[127.5] * 3,
    std=[64] * 3,
)
LINKS = dict(
    dpk=[dict(type='kd_mm.DPK', encoder=(16, 1, 2), decoder=(16, 1, 2), images=8)],
    dam=[dict(type='kd_mm.ConvAdapter'), dict(type='kd_mm.DAM', hidden=8)],
)


def renaming(width=16):
    return dict(
        type='RenamingClassifier', width=width, data_preprocessor=dict(PREPROCESSOR)
    )


def timm(name='test_resnet'):
    return dict(
        type='mmpretrain.TimmClassifier',
        model_name=name,
        num_classes=10,
        data_preprocessor=dict(PREPROCESSOR),
    )


def two_links(tap):
    return {
        name: dict(
            student=tap,
            teacher=tap,
            stages=stages,
            criterion=dict(type='kd_mm.MSELoss'),
        )
        for name, stages in LINKS.items()
    }


STUDENTS = dict(
    renaming=(renaming(), renaming(24), 'model.body'),
    timm=(timm(), timm('test_resnet'), 'model.layer3'),
)
students = pytest.mark.parametrize(
    'name',
    [
        'renaming',
        pytest.param(
            'timm',
            marks=pytest.mark.skipif(
                importlib.util.find_spec('timm') is None, reason='needs timm'
            ),
        ),
    ],
)


def digits(name, folder, *, model=None, **extra):
    student, teacher, tap = STUDENTS[name]
    cfg = model or distill_cfg(student, teacher, two_links(tap))
    settings = {
        'train_dataloader.dataset.indices': 100,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
    }
    return digits_runner(cfg, folder, epochs=2, **(settings | extra))


def point_to(last: Path, folder: Path) -> Path:
    """Let a run in ``folder`` resume from ``last``."""
    folder.mkdir()
    (folder / 'last_checkpoint').write_text(str(last))
    return folder


# ---- students whose hooks rename every key ------------------------------------------


@students  # MMEngine's EMAHook cannot save such students, plain ones neither
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name):
    whole = digits(name, tmp_path / 'whole')
    whole.train()
    part = point_to(tmp_path / 'whole' / 'epoch_1.pth', tmp_path / 'part')
    resumed = digits(name, part, resume=True)
    resumed.train()
    theirs = whole.model.state_dict()
    assert any(key.startswith('distiller.links.dam') for key in theirs)
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, theirs[key]), key


@students
def test_plain_weights_fit_both_ways(name):
    student, teacher, tap = STUDENTS[name]
    plain = build(student)
    model = build(distill_cfg(student, teacher, two_links(tap)), seed=1)
    model.load_state_dict(plain.state_dict(), strict=True)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    state = {k: v for k, v in model.state_dict().items() if 'distiller.' not in k}
    assert set(state) == set(plain.state_dict())
    plain.load_state_dict(state, strict=True)


# ---- what does not come back --------------------------------------------------------


class Loses(Hook):
    """Somebody's hook resets a layer of the distiller after the file was loaded."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        nn.init.zeros_(next(runner.model.distiller.parameters()))


def test_what_did_not_arrive_is_named(tmp_path):
    digits('renaming', tmp_path / 'a').train()
    part = point_to(tmp_path / 'a' / 'epoch_1.pth', tmp_path / 'b')
    again = digits('renaming', part, resume=True)
    again.register_hook(Loses())
    with pytest.raises(ConfigError, match='1 tensors .* did not arrive .distiller.'):
        again.train()


@pytest.mark.parametrize('ema', [False, True], ids=['', 'ema'])
@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (toys.retinanet(width=8), toys.retinanet(width=24), 'student.*other shapes'),
        (toys.retinanet(), toys.retinanet(width=32), r'distiller.*\(24, .* for \(32, '),
        (toys.retinanet(classes=7), toys.retinanet(width=24), 'bbox_head.retina_cls'),
    ],
    ids=['student', 'teacher', 'classes'],
)
def test_another_width_is_refused(tmp_path, student, teacher, message, ema):
    extra = dict(custom_hooks=[EMA]) if ema else {}
    first = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    detection_runner(first, tmp_path, epochs=1, **extra).train()
    cfg = distill_cfg(student, teacher)
    again = detection_runner(cfg, tmp_path, epochs=2, resume=True, **extra)
    with pytest.raises(ConfigError, match=f'cannot resume: .*{message}'):
        again.train()


def test_an_average_is_not_mistaken_for_the_weights(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    detection_runner(cfg, tmp_path, epochs=1, custom_hooks=[EMA]).train()
    with pytest.raises(ConfigError, match='no EMAHook'):
        detection_runner(cfg, tmp_path, epochs=2, resume=True).train()


# ---- load_from ----------------------------------------------------------------------


@pytest.mark.parametrize('hook', [None, EMA, dict(EMA, type='mmpretrain.EMAHook')])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_load_from_takes_a_bare_state_dict(tmp_path, hook, prefix):
    student = toys.retinanet()
    plain = build(student, seed=3)
    state = {f'{prefix}{key}': value for key, value in plain.state_dict().items()}
    torch.save(state, tmp_path / 'bare.pth')
    cfg = distill_cfg(student, toys.retinanet(width=24))
    run = detection_runner(
        cfg,
        tmp_path / 'run',
        epochs=1,
        load_from=str(tmp_path / 'bare.pth'),
        custom_hooks=[hook] if hook else [],
        optim_wrapper=dict(optimizer=dict(lr=0.0)),
    )
    run.train()
    for key, value in plain.named_parameters():
        assert torch.equal(value, run.model.state_dict()[key]), key


@pytest.mark.parametrize('hook', [None, EMA, dict(EMA, type='mmpretrain.EMAHook')])
def test_load_from_a_run_with_other_links_takes_its_student(tmp_path, hook):
    hooks = dict(custom_hooks=[hook] if hook else [])
    student = toys.retinanet()
    first = distill_cfg(student, toys.retinanet(width=24))
    detection_runner(first, tmp_path / 'a', epochs=1, **hooks).train()
    links = fitnet() | dict(two=fitnet()['fpn'])
    other = distill_cfg(student, toys.retinanet(width=32), links)
    again = detection_runner(
        other,
        tmp_path / 'b',
        epochs=1,
        load_from=str(tmp_path / 'a' / 'epoch_1.pth'),
        **hooks,
    )
    again.train()


def test_weights_for_what_is_inherited_are_refused(tmp_path):
    """Those of a file are loaded last, so the teacher's would be gone."""
    student = toys.retinanet()
    state = build(student).state_dict()
    cfg = distill_cfg(student, toys.retinanet(width=16), inherit=['bbox_head'])
    heads = [name for name in state if name.startswith('bbox_head.')]
    for kept in (state, {k: v for k, v in state.items() if k not in heads}):
        torch.save(kept, tmp_path / 'student.pth')
        begin = dict(load_from=str(tmp_path / 'student.pth'))
        run = detection_runner(cfg, tmp_path / 'run', epochs=1, **begin)
        if kept is not state:
            run.train()
            continue
        with pytest.raises(ConfigError, match="'bbox_head'.*model.inherit=\\[\\]"):
            run.train()


def test_resuming_from_bare_weights_or_a_whole_model_is_refused(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    model = build(cfg)
    torch.save(model.state_dict(), tmp_path / 'bare.pth')
    run = detection_runner(cfg, tmp_path / 'a', resume=True)
    run._load_from = str(tmp_path / 'bare.pth')
    with pytest.raises(ConfigError, match='weights only'):
        run.train()
    run = detection_runner(cfg, tmp_path / 'b')
    run.load_checkpoint = lambda path: run.call_hook(
        'after_load_checkpoint', checkpoint=model
    )
    run._load_from = 'whole.pth'
    with pytest.raises(ConfigError, match='holds a DistilledRetinaNet, not weights'):
        run.train()


# ---- other links whose tensors are the same -----------------------------------------


def pooled(criterion=None, *, stages=(), tap='neck', **link):
    """Without tensors of its own, like PKD and CWD between networks of one width."""
    criterion = criterion or dict(type='kd_mm.CWDLoss', tau=1.0)
    parts = dict(criterion=criterion, stages=list(stages))
    return dict(fpn=dict(student=tap, teacher=tap, **parts, **link))


def run_of(folder, links, **more):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links)
    return detection_runner(cfg, folder, epochs=1, **more)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    run_of(folder, pooled()).train()
    return folder / 'epoch_1.pth'


@pytest.mark.parametrize(
    ('links', 'message'),
    [
        (pooled(dict(type='kd_mm.PKDLoss')), 'criterion is CWDLoss .* now PKDLoss'),
        (pooled(stages=[dict(type='kd_mm.MatchMoments')]), r'stages is \[\] .*Moments'),
        (pooled(tap='backbone'), 'fpn.student is .*neck.*backbone'),
        (pooled(levels=[0]), r'fpn.levels.student is None .* now \[0\]'),
        (dict(other=pooled()['fpn']), 'fpn is there in the checkpoint, and now not'),
    ],
)
def test_other_links_with_the_same_tensors_are_refused(
    trained, tmp_path, links, message
):
    folder = point_to(trained, tmp_path / 'again')
    with pytest.raises(ConfigError, match=f'cannot resume: links.*{message}.*work-dir'):
        run_of(folder, links, resume=True).train()


def test_parts_within_a_part_are_of_what_a_link_is():
    boxes = [dict(type='kd_mm.BoxLoss', form='deltas'), dict(type='LDLoss', tau=1)]
    part = dict(type='kd_mm.HeadLoss', boxes=boxes, other=dict(a=1))
    assert _kinds(part) == 'HeadLoss(BoxLoss, LDLoss)'
    assert _kinds(dict(part, boxes=boxes[0])) == 'HeadLoss(BoxLoss)'


def test_options_of_a_link_may_change_and_older_checkpoints_say_no_links(
    trained, tmp_path
):
    changed = pooled(dict(type='kd_mm.CWDLoss', tau=2.0, weight=3.0), tap=['neck'])
    folder = point_to(trained, tmp_path / 'changed')
    run_of(folder, changed, resume=True).train()
    older = torch.load(trained, weights_only=False)
    del older['meta']['cfg']
    torch.save(older, tmp_path / 'older.pth')
    folder = point_to(tmp_path / 'older.pth', tmp_path / 'again')
    run_of(folder, pooled(dict(type='kd_mm.PKDLoss')), resume=True).train()
