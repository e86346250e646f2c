"""DAFA's policy gradient through one step of the student (second-order DARTS)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn

from ...schedule import Progress
from ...utils.randomness import kept_random, remembered
from ...utils.wrappers import unwrapped
from .policy import Draws, Policy


class Searching(Protocol):
    """What :func:`search_step` asks of a stage whose policy learns."""

    objective: str
    estimator: str
    policy: Policy
    fixed: tuple[Draws, Tensor] | tuple[()] | None

    def searching(self, progress: Progress) -> bool:
        """Whether the policy learns now."""

    def settle(self) -> None:
        """Let the policy take the step that is waiting."""

    def draw(self) -> Draws:
        """The next draws, one for every part of a batch."""

    def learn_from(self, draws: Draws, slopes: Tensor, gain: Tensor) -> None:
        """Let the policy learn from gradients at its levers in the next step."""


RATE = 0.01  # eta, of the step that is unrolled
STEP = 0.01  # of the finite difference, over the norm of its direction


def search_step(runner: Runner, data_batch: dict, *, caller: Searching) -> None:
    r"""Give every policy of the model its gradient on this batch.

    .. math:: \nabla_\chi L(w', \chi) - \eta \, [\nabla_\chi L(w^+, \chi)
        - \nabla_\chi L(w^-, \chi)] / 2\epsilon

    with :math:`w' = w - \eta \nabla_w L(w, \chi)`, :math:`w^\pm = w \pm \epsilon v`,
    :math:`v = \nabla_{w'} L(w', \chi)`. Source: DARTS, arXiv 1806.09055, equations 7
    and 8; eta = 0.01 and epsilon = 0.01 / ||v|| as there. Gradients are averaged over
    ranks; parameters, buffers, random states and counters are put back. All of it is in
    fp32, also under AMP. What a score function learns from (``estimator='relax'``) is
    the upper loss, less what it is without any augmentation.

    Stages with ``objective='published'`` do as SoKD's code does: the teacher is not
    augmented in the upper loss :math:`L(w')`, so only the second term is left. An
    augmentation is then good where a step on it lowers the plain loss, not where it
    brings the teacher near the student.

    Args:
        runner (Runner): The training run.
        data_batch (dict): The batch the student is about to see.
        caller (Searching): The stage asking; only the first of the model's is served,
            together with the others.
    """
    model = unwrapped(runner.model)
    progress = Progress.of(runner)
    factors = model.distiller.factors()
    stages = [
        stage
        for name, link in model.distiller.links.items()
        if factors[name]
        for stage in link.stages
        if getattr(stage, 'objective', '') == caller.objective
        and stage.searching(progress)
    ]
    if not stages or stages[0] is not caller:
        return
    for stage in stages:
        stage.settle()
    draws = [stage.draw() for stage in stages]
    data = model.data_preprocessor
    with undisturbed(model) as put_back:
        batch = data(copy.deepcopy(data_batch), True)
        problem = Problem(runner, model, stages, draws, batch, put_back)
        slopes, loss = problem.unrolled(plain=caller.objective == 'published')
        if any(stage.estimator == 'relax' for stage in stages):
            loss = loss - problem.gradients(of_weights=False, plain=True)[0]
    for stage, draw, slope in zip(stages, draws, slopes, strict=True):
        stage.learn_from(draw, slope, loss)


class Problem:
    """The loss of one batch as a function of the weights and of the levers.

    Args:
        runner (Runner): The training run, for its precision.
        model (nn.Module): A distilled model, not wrapped.
        stages (Sequence[Searching]): Whose levers are varied.
        draws (Sequence[Draws]): What they apply, one each.
        batch (dict): A preprocessed batch.
        put_back (Callable): Undoes what an evaluation leaves in buffers, so that all
            of them see the same random masks and memories.
    """

    def __init__(self, runner, model, stages, draws, batch, put_back) -> None:
        self.runner, self.model, self.batch = runner, model, batch
        self.stages, self.draws, self.put_back = stages, draws, put_back
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.device = self.weights[0].device
        self.same_masks = remembered(self.device)

    def gradients(
        self, *, of_weights: bool, plain: bool = False
    ) -> tuple[Tensor, list, list]:
        """Loss, gradients at the levers, and at the weights if asked for.

        With ``plain`` nothing is augmented, and the gradients at the levers are 0.
        """
        self.put_back()
        self.same_masks()
        levers = [d.levers().to(self.device).requires_grad_() for d in self.draws]
        for stage, draw, lever in zip(self.stages, self.draws, levers, strict=True):
            stage.fixed = () if plain else (draw, lever)
        try:
            # in half precision the two weights of a difference would be one
            full = torch.autocast(self.device.type, enabled=False)
            with self.runner.optim_wrapper.optim_context(self.model), full:
                loss, _ = self.model.parse_losses(self.model(**self.batch, mode='loss'))
        finally:
            for stage in self.stages:
                stage.fixed = None
        inputs = levers + (self.weights if of_weights else [])
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        found = [
            torch.zeros_like(x) if gradient is None else gradient
            for x, gradient in zip(inputs, found, strict=True)
        ]
        return loss.detach(), found[: len(levers)], found[len(levers) :]

    def unrolled(self, *, plain: bool) -> tuple[list[Tensor], Tensor]:
        """Gradient at the levers of every stage, and the upper loss.

        Args:
            plain (bool): Whether the upper loss is that of the un-augmented teacher.
        """
        start = [w.detach().clone() for w in self.weights]
        try:
            _, _, first = self.gradients(of_weights=True)
            self._move(_average(first), -RATE)
            loss, slopes, second = self.gradients(of_weights=True, plain=plain)
            second = _average(second)
            norm = torch.stack(torch._foreach_norm(second)).norm()
            step = STEP / norm.clamp(min=1e-12)
            sides = []
            for sign in (1.0, -1.0):
                self._put(start)
                self._move(second, sign * step)
                sides.append(self.gradients(of_weights=False)[1])
        finally:
            self._put(start)
        return [
            slope - RATE * (plus - minus) / (2 * step)
            for slope, plus, minus in zip(slopes, *sides, strict=True)
        ], loss

    @torch.no_grad()
    def _move(self, direction: Sequence[Tensor], length: float | Tensor) -> None:
        for weight, d in zip(self.weights, direction, strict=True):
            weight.add_(d * length)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)


def _average(gradients: list[Tensor]) -> list[Tensor]:
    flat = torch.cat([g.flatten().float() for g in gradients])
    all_reduce(flat, op='mean')
    parts = flat.split([g.numel() for g in gradients])
    return [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Put buffers and random states back afterwards, and measure nothing until then.

    Gives a function that puts the buffers back at once.
    """
    distiller = model.distiller
    measuring, distiller.measuring = distiller.measuring, False
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    device = next(model.parameters()).device

    @torch.no_grad()
    def put_back() -> None:
        for buffer, value in buffers:
            buffer.copy_(value)
        for link in distiller.links.values():
            for stage in link.stages:
                stage.recall()

    try:
        with kept_random(device):
            yield put_back
    finally:
        distiller.measuring = measuring
        put_back()
