"""DAFA's second-order search step."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import toys
from helpers import distill_cfg, runner
from mmengine.hooks import Hook

from kd_mm.stages.sokd.unrolled import RATE, Problem


class Scene(torch.nn.Module):
    """Task and distillation loss of a linear student, with two levers in it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
        self.unused = torch.nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.data = torch.randn(5, 6, dtype=torch.float64)
        self.task, self.guide = torch.randn(2, 5, dtype=torch.float64)
        self.stage = SimpleNamespace(fixed=None)

    def forward(self, mode):
        levers = self.stage.fixed[1]
        out = self.data @ self.weight
        task = (out - self.task).square().mean()
        guide = levers[3] * self.guide + levers[1] * self.guide.flip(0).square()
        return task + 20 * (out - guide).pow(4).mean()

    def parse_losses(self, loss):
        return loss, {}

    def problem(self):
        wrapper = SimpleNamespace(optim_context=lambda model: nullcontext())
        levers = torch.tensor([1.0, 1, 0, 0.4, 0.6], dtype=torch.float64)
        draw = SimpleNamespace(levers=lambda: levers)
        runner = SimpleNamespace(optim_wrapper=wrapper)
        return Problem(runner, self, [self.stage], [draw], {}, lambda: None)


def test_the_gradient_is_that_through_a_step_of_the_student():
    scene = Scene()
    before = scene.weight.detach().clone()
    (slopes,), loss = scene.problem().unrolled()
    assert torch.equal(scene.weight, before)

    levers = scene.problem().draws[0].levers().requires_grad_()
    scene.stage.fixed = None, levers
    first = scene(mode='loss')
    (d,) = torch.autograd.grad(first, scene.weight, create_graph=True)
    moved = torch.func.functional_call(
        scene, {'weight': scene.weight - RATE * d}, kwargs=dict(mode='loss')
    )
    (exact,) = torch.autograd.grad(moved, levers)
    torch.testing.assert_close(slopes, exact, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loss, moved.detach())
    direct = torch.autograd.grad(scene(mode='loss'), levers)[0]
    assert not torch.allclose(exact, direct, rtol=0.02)  # the step matters


class _Watch(Hook):
    """Compares the model before and after the search step, which comes between."""

    priority = 'ABOVE_NORMAL'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.state = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.random, self.step = torch.get_rng_state(), runner.model.distiller.step


class _Compare(Hook):
    priority = 'BELOW_NORMAL'

    def __init__(self, watch):
        self.watch, self.compared = watch, 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for key, value in runner.model.state_dict().items():
            if not key.endswith('_extra_state'):
                assert torch.equal(value, self.watch.state[key]), key
        assert torch.equal(torch.get_rng_state(), self.watch.random)
        assert runner.model.distiller.step == self.watch.step
        self.compared += 1


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_the_search_step_leaves_everything_but_the_policy_alone(tmp_path, estimator):
    dafa = dict(
        type='kd_mm.DAFA',
        objective='unrolled',
        estimator=estimator,
        search_epochs=1,
        start=0,
        lr=0.05,
    )
    adapter = dict(type='kd_mm.ConvAdapter', norm_cfg=dict(type='BN'), layers=2)
    link = dict(
        student='neck',
        teacher='neck',
        stages=[dafa, adapter, dict(type='kd_mm.DAM')],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24), dict(fpn=link))
    one = runner(cfg, tmp_path, epochs=2)
    watch = _Watch()
    compare = _Compare(watch)
    one.register_hook(watch)
    one.register_hook(compare)
    stage = one.model.distiller.links['fpn'].stages[0]
    before = stage.policy.chi.clone()
    one.train()
    assert compare.compared == 8
    assert stage.policy.draws == 4 + 8  # a draw for every search step, and each step
    assert not torch.equal(stage.policy.chi, before)
