"""What a model has to be, and to stay, as a student."""

import pytest
import torch
import toys
from helpers import build, classification_batch, distill_cfg, fitnet, train_steps
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from torch import nn

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


def test_a_student_that_computes_its_losses_in_loss_is_taken():
    model = build(distill_cfg(dict(type='LossOfBatch'), TEACHER, LINKS))
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
