"""The average of the student's weights follows them, whoever changes them."""

import gc
import pickle

import pytest
import torch
import toys
from helpers import build, distill_cfg
from torch.optim import optimizer as optim

from kd_mm.teachers import Average, with_files

NAME = 'backbone.conv1.weight'


class Hidden(torch.optim.Optimizer):
    """Writes through ``p.data``, which leaves the version of a weight alone."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                p.data.add_(1.0)


OPTIMIZERS = dict(
    plain=lambda p: torch.optim.SGD(p, lr=0.1),
    hidden=lambda p: Hidden(p, {}),
    fused_sgd=lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    fused_adamw=lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
)


def student() -> torch.nn.Module:
    return build(toys.classifier())


def step(model, optimizer) -> None:
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_average_follows_every_optimiser_once_a_step(name):
    model, other = student(), student()
    average = Average(student=model, momentum=0.4)
    own, weight = (m.get_parameter(NAME) for m in (average.model, model))
    expected = weight.detach().clone()
    try:
        optimizer = OPTIMIZERS[name](model.parameters())
    except RuntimeError:
        pytest.skip('this PyTorch has it on accelerators only')
    strange = OPTIMIZERS[name](other.parameters())
    for count in range(1, 5):
        expected += (weight.detach() - expected) * max(0.4, 1 / count)
        for _ in range(2):  # the second batch of an accumulated gradient
            average.follow(model)
            assert average.steps == count
            torch.testing.assert_close(own, expected)
            step(other, strange)  # another model's
        step(model, optimizer)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='since PyTorch 2.3')
def test_a_step_that_the_loss_scaler_skips_is_none():
    model = student()
    average = Average(student=model)
    average.follow(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler('cpu')
    loss = model.get_parameter(NAME).sum() * float('inf')
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    average.follow(model)
    assert average.steps == 1


def test_the_first_step_takes_the_students_weights_whatever_was_there():
    model = student()
    average = Average(student=model)
    own, weight = (m.get_parameter(NAME) for m in (average.model, model))
    own.data.fill_(float('nan'))  # memory before init_weights
    average.follow(model)
    assert torch.equal(own, weight) and own is not weight


def test_a_pickled_average_follows_too_and_no_hook_outlives_its_model():
    gc.collect()
    before = len(optim._global_optimizer_post_hooks)
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16))
    model = build(cfg | dict(teacher='ema'))
    again = pickle.loads(pickle.dumps(model))
    assert len(optim._global_optimizer_post_hooks) == before + 2
    average = again.distiller.teacher
    average.follow(again)
    step(again, Hidden(again.parameters(), {}))
    average.follow(again)
    assert (average.steps, model.distiller.teacher.steps) == (2, 0)
    keys = [k for k in again.state_dict() if k.startswith('distiller.average')]
    assert len(keys) == len(average.model.state_dict()) + 1
    del model, again, average
    gc.collect()
    assert len(optim._global_optimizer_post_hooks) == before


def test_the_parts_that_read_files_can_be_changed():
    two = dict(
        a=dict(config='a.py'), b=dict(config='b.py'), c='ema', d=dict(config='ema')
    )
    for part in with_files(two).values():
        part['trust'] = True
    assert two['a']['trust'] and two['b']['trust'] and 'trust' not in two['d']
    one = dict(config='a.py')
    (part,) = with_files(one).values()
    assert part is one and not with_files('ema')
