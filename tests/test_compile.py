"""``compile=True`` on the Runner: links begin and end as without it."""

import pytest
import torch
from helpers import distill_cfg, runner
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from torch import nn

pytestmark = pytest.mark.slow


@MODELS.register_module()
class Stacked(BaseDataPreprocessor):
    """A batch of numbers in [0, 1]."""

    def forward(self, data, training=False):
        inputs = torch.stack([x.float() / 255 for x in data['inputs']])
        return dict(inputs=inputs, data_samples=data['data_samples'])


@MODELS.register_module()
class SmallStudent(BaseModel):
    """Compiled in two pieces, as detectors are."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor or dict(type='mmengine.Stacked'))
        self.neck = nn.Conv2d(3, 4, 3, stride=8)

    def extract(self, inputs):
        return self.neck(inputs)

    def loss(self, inputs, data_samples):
        torch._dynamo.graph_break()
        return dict(loss_task=self.extract(inputs).square().mean())

    def forward(self, inputs, data_samples, mode='tensor'):
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.extract(inputs)


class Logs(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({name: float(value) for name, value in outputs.items()})


@pytest.mark.parametrize(
    'more',
    [
        {},
        dict(schedule=dict(warmup=1)),
        dict(schedule=dict(stop=1)),
        dict(share=dict(target=0.5, interval=2)),
    ],
    ids=['all', 'late', 'ends', 'share'],
)
def test_a_compiled_run_logs_what_another_one_does(tmp_path, more):
    logs = []
    small = dict(type='mmengine.SmallStudent')
    link = dict(
        student='neck',
        teacher='neck',
        stages=[dict(type='kd_mm.ConvAdapter')],
        criterion=dict(type='kd_mm.MSELoss'),
        **more,
    )
    for name in ('plain', 'compiled'):
        one = runner(
            distill_cfg(small, small, dict(x=link), gradient_share_interval=1),
            tmp_path / name,
            epochs=2,
            default_scope='mmengine',
            compile=dict(backend='eager', disable=name == 'plain'),
            val_cfg=None,
            val_dataloader=None,
            val_evaluator=None,
        )
        one.register_hook(found := Logs())
        one.train()
        logs.append(found.seen)
    for step, (plain, compiled) in enumerate(zip(*logs, strict=True)):
        assert plain == pytest.approx(compiled, rel=1e-5), step
    assert len(plain) >= 3
