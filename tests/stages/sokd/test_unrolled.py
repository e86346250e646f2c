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
        self.data = torch.randn(5, 6, dtype=torch.float64) / 4
        self.task, self.guide = torch.randn(2, 5, dtype=torch.float64)
        self.stage = SimpleNamespace(fixed=None)

    def forward(self, mode):
        out = self.data @ self.weight
        task = (out - self.task).square().mean()
        guide = self.guide
        if self.stage.fixed:
            levers = self.stage.fixed[1]
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
    (slopes,), loss = scene.problem().unrolled(plain=False)
    assert torch.equal(scene.weight, before)

    levers = scene.problem().draws[0].levers().requires_grad_()
    scene.stage.fixed = None, levers
    first = scene(mode='loss')
    (d,) = torch.autograd.grad(first, scene.weight, create_graph=True)
    moved = torch.func.functional_call(
        scene, {'weight': scene.weight - RATE * d}, (), dict(mode='loss')
    )
    (exact,) = torch.autograd.grad(moved, levers)
    torch.testing.assert_close(slopes, exact, rtol=5e-3, atol=1e-5)
    torch.testing.assert_close(loss, moved.detach(), rtol=1e-5, atol=1e-8)
    direct = torch.autograd.grad(scene(mode='loss'), levers)[0]
    assert not torch.allclose(exact, direct, rtol=0.02)  # the step matters


def test_the_published_gradient_is_that_of_the_plain_loss_after_an_augmented_step():
    scene = Scene()
    (slopes,), loss = scene.problem().unrolled(plain=True)

    levers = scene.problem().draws[0].levers().requires_grad_()
    scene.stage.fixed = None, levers
    (d,) = torch.autograd.grad(scene(mode='loss'), scene.weight, create_graph=True)
    scene.stage.fixed = ()
    moved = torch.func.functional_call(
        scene, {'weight': scene.weight - RATE * d}, (), dict(mode='loss')
    )
    (exact,) = torch.autograd.grad(moved, levers)
    torch.testing.assert_close(slopes, exact, rtol=5e-3, atol=1e-5)
    torch.testing.assert_close(loss, moved.detach(), rtol=1e-5, atol=1e-8)


class Blur(torch.nn.Module):
    """A student near 0, and one operator that takes the teacher there too.

    The augmented teacher is ``(1 - strength) * teacher``: near this student, and of no
    use to it, since the task wants what the teacher has.
    """

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((6,), 0.01).double())
        self.data = torch.eye(6, dtype=torch.float64)
        self.teacher = torch.tensor([1.0, -2, 1, 2, -1, 1], dtype=torch.float64)
        self.stage = SimpleNamespace(fixed=None)

    def forward(self, mode):
        student = self.data @ self.weight
        strength = self.stage.fixed[1][3] if self.stage.fixed else 0.0
        guide = (1 - strength) * self.teacher
        task = (student - self.teacher).square().mean()
        return task + (student - guide).square().mean()

    parse_losses = Scene.parse_losses
    problem = Scene.problem


def test_what_is_near_but_teaches_nothing_is_left_by_the_published_objective():
    scene = Blur()
    (published,), _ = scene.problem().unrolled(plain=True)
    (unrolled,), _ = scene.problem().unrolled(plain=False)
    levers = scene.problem().draws[0].levers().requires_grad_()
    guide = (1 - levers[3]) * scene.teacher
    near = (scene.weight.detach() - guide).square().mean() / 2
    (consistency,) = torch.autograd.grad(near, levers)
    # the slope of the magnitude: descent lowers it where the slope is positive
    assert published[3] > 0
    assert consistency[3] < 0 and unrolled[3] < 0  # both reward the blur


class _Watch(Hook):
    """Compares the model before and after the search step, which comes between."""

    priority = 'ABOVE_NORMAL'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.state = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.random = torch.get_rng_state()


class _Compare(Hook):
    priority = 'BELOW_NORMAL'

    def __init__(self, watch):
        self.watch, self.compared = watch, 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for key, value in runner.model.state_dict().items():
            if not key.endswith('_extra_state'):
                assert torch.equal(value, self.watch.state[key]), key
        assert torch.equal(torch.get_rng_state(), self.watch.random)
        self.compared += 1


@pytest.mark.parametrize(
    ('estimator', 'objective'),
    [('gumbel', 'unrolled'), ('relax', 'unrolled'), ('relax', 'published')],
)
def test_the_search_step_leaves_everything_but_the_policy_alone(
    tmp_path, monkeypatch, estimator, objective
):
    dafa = dict(
        type='kd_mm.DAFA',
        objective=objective,
        estimator=estimator,
        search_epochs=1,
        start=0,
        lr=0.05,
        draws=2 if estimator == 'gumbel' else 1,
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
    before, gains = stage.policy.chi.clone(), []
    learn_from = stage.learn_from
    monkeypatch.setattr(
        stage, 'learn_from', lambda *a: (gains.append(float(a[2])), learn_from(*a))
    )
    one.train()
    assert compare.compared == 8
    if estimator == 'relax':  # less what there is without a draw: the loss is 10
        assert len(gains) == 4 and max(map(abs, gains)) < 4
    assert stage.policy.draws == stage.draws * (
        4 + 8
    )  # every search step, and each step
    assert not torch.equal(stage.policy.chi, before)
