"""What a model has to be, and to stay, as a student."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toys
from helpers import build, classification_batch, distill_cfg, fitnet, train_steps
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models.classifiers import ImageClassifier
from torch import nn

from kd_mm.distill import distilled_class
from kd_mm.errors import ConfigError

TEACHER = toys.classifier(base=16)
LINKS = dict(
    body=dict(
        student='body',
        teacher='backbone[0]',
        stages=[dict(type='kd_mm.Resize'), dict(type='kd_mm.ConvAdapter')],
        criterion=dict(type='kd_mm.MSELoss'),
    )
)


class Tutorial(BaseModel):
    """In the style of MMEngine's tutorial: forward alone."""

    def __init__(self):
        super().__init__(dict(type='mmpretrain.ClsDataPreprocessor', num_classes=4))
        self.body = nn.Conv2d(3, 8, 3, 4, 1)
        self.head = nn.Linear(8, 4)

    def scores(self, inputs):
        return self.head(self.body(inputs).mean((2, 3)))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = self.scores(inputs)
        if mode != 'loss':
            return scores
        target = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=nn.functional.cross_entropy(scores, target))


@MODELS.register_module()
class ForwardAlone(Tutorial):
    pass


@MODELS.register_module()
class LossModule(Tutorial):
    def __init__(self):
        super().__init__()
        self.loss = nn.CrossEntropyLoss()


@MODELS.register_module()
class LossBeside(Tutorial):
    def loss(self, inputs, data_samples):
        return super().forward(inputs, data_samples, mode='loss')


@MODELS.register_module()
class LossOfScores(Tutorial):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode != 'loss':
            return self.scores(inputs)
        return self.loss(self.scores(inputs), data_samples)

    def loss(self, scores, data_samples):
        target = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=nn.functional.cross_entropy(scores, target))


@MODELS.register_module()
class LossOfBatch(LossBeside):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)


@MODELS.register_module()
class LossByName(LossOfBatch):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return self.loss(batch_inputs=inputs, batch_data_samples=data_samples)
        return Tutorial.forward(self, inputs, data_samples, mode)

    def loss(self, batch_inputs, batch_data_samples):
        return super().loss(batch_inputs, batch_data_samples)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('ForwardAlone', 'has no method loss'),
        ('LossModule', 'has no method loss'),
        ('LossBeside', 'does not call self.loss'),
        ('LossOfScores', 'something else than the batch'),
    ],
)
def test_a_student_that_would_train_undistilled_is_refused(kind, message):
    with pytest.raises(ConfigError, match=f'student {kind}.*{message}'):
        build(distill_cfg(dict(type=kind), TEACHER, LINKS))


@pytest.mark.parametrize('kind', ['LossOfBatch', 'LossByName'])
def test_a_student_that_computes_its_losses_in_loss_is_taken(kind):
    model = build(distill_cfg(dict(type=kind), TEACHER, LINKS))
    assert 'loss' not in vars(model)
    log = train_steps(model, classification_batch(), steps=1)[0]
    assert log['loss_kd_body'] > 0


@MODELS.register_module()
class ForgetsTheDistiller(ImageClassifier):
    """Saves only what it knows, as LoRA does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._register_state_dict_hook(self._keep)

    @staticmethod
    def _keep(module, state, prefix, meta):
        for key in [k for k in state if not k.startswith(('backbone', 'head'))]:
            del state[key]


def test_a_student_that_does_not_save_the_distiller_is_refused():
    student = toys.classifier() | dict(type='ForgetsTheDistiller')
    with pytest.raises(ConfigError, match='removes 6 tensors of the distiller'):
        build(distill_cfg(student, TEACHER, fitnet()))


def test_a_file_is_no_student():
    cfg = distill_cfg('student.py', TEACHER)
    with pytest.raises(ConfigError, match=r"_base_ = \['student.py'\] and student="):
        build(cfg)


# ---- model-level init_cfg -----------------------------------------------------------

INIT = [
    dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.5),
    dict(type='Constant', layer=['BatchNorm2d', 'LayerNorm'], val=0.5, bias=0.1),
]
SHAPED = dict(
    map=dict(
        student='backbone[0]',
        teacher='backbone[0]',
        stages=[
            dict(type='kd_mm.ConvAdapter', layers=2, norm_cfg=dict(type='BN')),
            dict(type='kd_mm.DAM', hidden=8),
            dict(type='kd_mm.DPK', encoder=(16, 1, 2), decoder=(16, 1, 2)),
        ],
        criterion=dict(type='kd_mm.MSELoss', weight=0.0),
    )
)


def test_init_cfg_of_the_model_does_not_reach_the_distiller():
    student = toys.classifier() | dict(init_cfg=INIT)
    cfg = distill_cfg(student, TEACHER, SHAPED)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    before = {k: v.clone() for k, v in model.distiller.state_dict().items()}
    model.init_weights()
    for key, value in model.distiller.state_dict().items():
        assert torch.equal(value, before[key]), key
    plain = build(student)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    batch = classification_batch()
    logs = train_steps(plain, batch), train_steps(model.train(), batch)
    for log, log_kd in zip(*logs):
        assert log == {k: v for k, v in log_kd.items() if 'kd' not in k}


def smallest_of_every_family():
    """By class of model and backbone: a packaged config with an init_cfg of the model.

    New families are found by themselves; self-supervised ones and trackers are no
    students.
    """
    words = [
        'atto',
        'femto',
        'pico',
        'nano',
        'tiny',
        'small',
        'medium',
        'base',
        'large',
        'xlarge',
        'huge',
    ]
    found = {}
    for package in ('mmdet', 'mmpretrain'):
        root = Path(find_spec(package).origin).parent / '.mim/configs'
        for path in sorted(root.rglob('*.py')):
            if not re.search(r'^    init_cfg=', path.read_text(), re.MULTILINE):
                continue
            model = Config.fromfile(path).get('model') or {}
            if not (model.get('init_cfg') and 'backbone' in model):
                continue
            size = [i for i, word in enumerate(words) if word in path.stem]
            family = f'{model.type} {model.backbone.type}'
            found.setdefault(family, []).append((min(size or [99]), package, model))
    return {name: min(all_, key=lambda one: one[0]) for name, all_ in found.items()}


class Aside(nn.Module):
    """Stands for a distiller: a layer of every kind that an init_cfg may name."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Linear(3, 3),
                nn.Conv2d(3, 3, 3),
                nn.LayerNorm(3),
                nn.BatchNorm2d(3),
                nn.GroupNorm(1, 3),
            ]
        )
        self.teacher = SimpleNamespace(model=nn.Identity())


@pytest.mark.slow
def test_init_cfg_of_every_family_stops_at_the_student():
    families = smallest_of_every_family()
    assert {'ImageClassifier SwinTransformer', 'ImageClassifier ConvNeXt'} <= {
        *families
    }
    assert len(families) >= 20
    for family, (_, package, cfg) in families.items():
        cfg = copy.deepcopy(cfg)
        if isinstance(cfg.init_cfg, dict) and cfg.init_cfg.type == 'Pretrained':
            continue  # a download
        with DefaultScope.overwrite_default_scope(package):
            torch.manual_seed(0)
            plain = MODELS.build(copy.deepcopy(cfg))
            plain.init_weights()
            torch.manual_seed(0)
            model = MODELS.build(cfg)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                aside = Aside()
            before = copy.deepcopy(aside.state_dict())
            model.__class__ = distilled_class(type(model))
            model.distiller, model.inherited = aside, ()
            model.init_weights()
        state = model.state_dict()
        for key, value in plain.state_dict().items():
            assert torch.equal(value, state[key]), f'{family}: {key}'
        for key, value in before.items():
            assert torch.equal(value, aside.state_dict()[key]), f'{family}: {key}'


def _tiny(backbone, width, init_cfg):
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(toys.classifier().data_preprocessor),
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=4,
            in_channels=width,
            loss=dict(type='CrossEntropyLoss'),
        ),
        init_cfg=init_cfg,
    )


TRUNCATED = [
    dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0),
    dict(type='Constant', layer=['LayerNorm'], val=1.0, bias=0.0),
]
SMALL = dict(
    swin=_tiny(
        dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
            img_size=64,
            window_size=2,
            drop_path_rate=0.2,
            out_indices=(1, 3),
        ),
        64,
        TRUNCATED,
    ),
    convnext=_tiny(
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 32, 64]),
            drop_path_rate=0.1,
            gap_before_final_norm=False,
            out_indices=(1, 3),
        ),
        64,
        TRUNCATED,
    ),
)


@pytest.mark.parametrize('name', SMALL)
def test_weight_zero_is_the_baseline_for_families_with_an_init_cfg(name):
    links = copy.deepcopy(SHAPED)
    links['map'].update(student='backbone[0]', teacher='backbone[0]')
    links['map']['stages'].insert(0, dict(type='kd_mm.Resize'))
    plain = build(SMALL[name])
    model = build(distill_cfg(SMALL[name], TEACHER, links) | dict(trial_size=(64, 64)))
    batch = classification_batch()
    torch.manual_seed(1)
    logs = train_steps(plain, batch)
    torch.manual_seed(1)
    logs_kd = train_steps(model, batch)
    for log, log_kd in zip(logs, logs_kd):
        assert log == {k: v for k, v in log_kd.items() if 'kd' not in k}
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
