"""DAFA: learn how to augment the teacher's features for this student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor

from ...criteria.base import Criterion
from ...diagnostics import HostCopy
from ...errors import ConfigError, nearest
from ...options import (
    Count,
    Natural,
    NonNegative,
    Positive,
    ProperFraction,
    Rule,
    checked,
)
from ...pair import MAP, FeaturePair, layout
from ...registry import MODELS
from ...schedule import Progress
from ..base import Stage
from .operators import OPERATORS, on_device
from .policy import LIMIT, Draw, Draws, Policy
from .unrolled import search_step

Objective = Literal['consistency', 'unrolled', 'published']
Operators = Annotated[
    Sequence[str], Rule('of two or more', lambda names: len(set(names)) > 1)
]


@dataclass
class Trial:
    """What was applied in this step, with the graph that leads back to the levers."""

    draws: Draws
    levers: Tensor
    plain: list[Tensor]
    augmented: list[Tensor]


@MODELS.register_module()
class DAFA(Stage):
    """Differentiable automatic feature augmentation of the teacher's side. SoKD.

    Source: SoKD, arXiv 2409.18785. A policy chi = {alpha, beta, m} weighs sub-policies
    of two operators, and holds how likely and how strong each operator is. In every
    step one sub-policy is drawn for the whole batch and all levels (``draws``: for
    every part of the batch). During the first
    ``search_epochs`` chi learns, by its own Adam, to bring the augmented teacher near
    the student; then it is frozen and goes on being sampled. In eval mode nothing is
    augmented.

    At the start all probabilities and magnitudes are 0.5, as in the authors' code: a
    geometric operator does nothing yet and learns where to go, the others act at half
    strength. Our choices: the loss of a choice is seen from the un-augmented feature,
    ``F + gate * (s(F) - F)``, which is what its gradient compares with; gradients
    reach the policy one step later, so no step waits for the device.

    Args:
        search_epochs (float): How long the policy learns. Defaults to 4.
        start (float): How long nothing is augmented (our choice). An untrained student
            is near 0: the policy would learn to shrink the teacher, the student to
            follow it, and both would stay there. Defaults to 1.
        by_epoch (bool): Whether ``start`` and ``search_epochs`` are epochs; iterations
            otherwise. Defaults to True.
        operators (Sequence[str], optional): Names from
            :data:`kd_mm.stages.sokd.operators.OPERATORS`. Defaults to None, all that
            the features allow; vectors and tokens have no geometry.
        policies (int, optional): Number of sub-policies. Defaults to None, all pairs.
        estimator (str): 'gumbel' or 'relax', see :meth:`Policy.gradient`.
            Defaults to 'gumbel'.
        objective (str): What chi minimises. 'consistency': half the mean squared
            difference between the augmented teacher and the student at the end of the
            link (L_aug of the paper, first order); where their widths differ, the
            criterion. 'unrolled': the total loss after one step of the student
            (DARTS, arXiv 1806.09055, equation 7); four more passes through the student
            in every step of the search, and it needs MMEngine's Runner. 'published':
            the same, but the total loss is that of the un-augmented teacher, as in the
            authors' code: what counts is what a step on the augmented one is good for,
            and not how near it is. Defaults to 'consistency'.
        temperature (float): Of the relaxed samples. Defaults to 0.5.
        lr (float): Of chi's Adam. Defaults to 3e-4.
        weight_decay (float): Of alpha, in chi's Adam. Defaults to 1e-3.
        seed (int): Of all draws, which are the same on all ranks. Defaults to 0.
        draws (int): Parts that a batch is cut into, each with a draw of its own (our
            choice); the batch size gives every image one. Defaults to 1, as published.
        least_probability (float): How unlikely an operator can become (our choice). At
            0 it can be given up: from then on it neither runs nor learns.
            Defaults to 1e-3.

    Shapes:
        teacher: as it was, for maps ``(N, C, H, W)``, tokens and vectors.

    Raises:
        ConfigError: For unknown names or numbers out of range; if an operator cannot
            act on the features; if a later stage changes the teacher's side.
    """

    @checked
    def __init__(
        self,
        *,
        search_epochs: NonNegative = 4,
        start: NonNegative = 1,
        by_epoch: bool = True,
        operators: Operators | None = None,
        policies: Count | None = None,
        estimator: Literal['gumbel', 'relax'] = 'gumbel',
        objective: Objective = 'consistency',
        temperature: Positive = 0.5,
        lr: Positive = 3e-4,
        weight_decay: NonNegative = 1e-3,
        seed: Natural = 0,
        draws: Count = 1,
        least_probability: ProperFraction = LIMIT,
    ) -> None:
        super().__init__()
        for name in operators or ():
            if name not in OPERATORS:
                near = nearest(name, OPERATORS)
                raise ConfigError(f'DAFA.operators: there is no {name!r}; {near}')
        if len(set(operators or ())) < len(operators or ()):
            raise ConfigError(f'DAFA.operators: {operators} names one twice')
        self.search_epochs, self.start, self.by_epoch = search_epochs, start, by_epoch
        self.operators, self.policies = operators, policies
        self.estimator, self.objective = estimator, objective
        self.temperature, self.seed = temperature, seed
        self.draws, self.least_probability = draws, least_probability
        self.optimizer = dict(lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)
        self.link = ''
        self._given: list[Tensor] = []  # the teacher's side as it left here
        self._trial: Trial | None = None  # waits for the end of the link
        self._pending: tuple[Draws, HostCopy] | None = None  # waits for the next step
        self._refused = ''
        # within an unrolled step: what is applied, () for nothing
        self.fixed: tuple[Draws, Tensor] | tuple[()] | None = None

    # ---- shapes and use -------------------------------------------------------

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        maps = all(layout(feature) == MAP for feature in pair.teacher)
        fitting = [n for n, op in OPERATORS.items() if maps or not op.spatial]
        names = fitting if self.operators is None else list(self.operators)
        if foreign := [name for name in names if name not in fitting]:
            raise ConfigError(
                f'DAFA.operators: {", ".join(foreign)} need (N, C, H, W) maps: put '
                'dict(type="kd_mm.TokensToMap") before it where they are tokens'
            )
        self.link, self.operators = pair.link, names
        self.moves_channels = 'ChannelShuffle' in names
        self.policy = self._new_policy()

    def _new_policy(self) -> Policy:
        assert self.operators is not None
        return Policy(
            operators=self.operators,
            count=self.policies,
            estimator=self.estimator,
            temperature=self.temperature,
            optimizer=self.optimizer,
            seed=self.seed,
            least=self.least_probability,
        )

    def draw(self) -> Draws:
        """The next draws, one for every part of a batch."""
        return self.policy.draw_all(self.draws)

    def age(self, progress: Progress) -> float:
        """Epochs (or iterations) since augmentation began; negative before."""
        return progress.at(self.by_epoch) - self.start

    def searching(self, progress: Progress) -> bool:
        """Whether the policy learns now."""
        return 0 <= self.age(progress) < self.search_epochs

    def forward(self, pair: FeaturePair) -> FeaturePair:
        self._trial = None  # of a step that did not come to its end
        if self.fixed is not None:
            if self.fixed:
                pair.teacher = self._augment(pair.teacher, *self.fixed, pair.image_size)
        elif self.training and self.age(pair.progress) >= 0:
            self._step(pair)
        self._given = list(pair.teacher)
        return pair

    def _step(self, pair: FeaturePair) -> None:
        self.settle()
        plain, draws = pair.teacher, self.draw()
        levers = on_device(draws.levers(), plain[0])
        if self.searching(pair.progress) and self.objective == 'consistency':
            with torch.enable_grad():
                levers.requires_grad_()
                exact = [feature.float() for feature in plain]  # half would underflow
                augmented = self._augment(exact, draws, levers, pair.image_size)
            self._trial = Trial(draws, levers, exact, augmented)
            pair.teacher = [
                new.detach().to(old.dtype)
                for new, old in zip(augmented, plain, strict=True)
            ]
        else:
            pair.teacher = self._augment(plain, draws, levers, pair.image_size)
        pair.logs['policy_entropy'] = torch.tensor(self.policy.entropy())
        pair.logs['policy_strength'] = torch.tensor(self.policy.strength())

    @classmethod
    def _augment(
        cls,
        features: list[Tensor],
        draws: Draws,
        levers: Tensor,
        size: tuple[int, int],
    ) -> list[Tensor]:
        """What was drawn for it on every part of the batch, the same on every level.

        A batch of fewer images than draws leaves draws without an image.
        """
        aspect = size[0] / size[1]
        if len(draws) == 1:
            return [cls._apply_draw(f, draws[0], levers[0], aspect) for f in features]
        return [
            torch.cat(
                [
                    cls._apply_draw(part, draw, own, aspect) if len(part) else part
                    for part, draw, own in zip(
                        feature.tensor_split(len(draws)), draws, levers, strict=True
                    )
                ]
            )
            for feature in features
        ]

    @staticmethod
    def _apply_draw(
        feature: Tensor, draw: Draw, levers: Tensor, aspect: float
    ) -> Tensor:
        """Two operators in order.

        While chi learns, both always run: what an operator would do is its gradient.
        """
        changed = feature
        for i, name in enumerate(draw.names):
            if not (levers.requires_grad or draw.bits[i]):
                continue
            result = OPERATORS[name](changed, levers[3 + i], draw.chances[i], aspect)
            if levers.requires_grad:  # exactly one of the two, with a gradient
                result = changed.lerp(result, levers[1 + i].to(result.dtype))
            changed = result
        if levers.requires_grad:
            changed = feature.lerp(changed, levers[0].to(changed.dtype))
        return changed

    # ---- learning -------------------------------------------------------------

    def finish(self, pair: FeaturePair, criterion: Criterion) -> None:
        """Measure how far the augmented teacher is from the student, and how it falls.

        L_aug of arXiv 2409.18785, equation 3, as a mean per element.
        """
        given, self._given = self._given, []
        if any(a is not b for a, b in zip(given, pair.teacher, strict=True)):
            raise ConfigError(
                "DAFA has to be the last stage that changes the teacher's side: put "
                'it behind ChannelAlign, TokensToMap and Resize(side="teacher")'
            )
        trial, self._trial = self._trial, None
        if trial is None:
            return
        student = [feature.detach() for feature in pair.student]
        with torch.enable_grad():
            loss = consistency(student, trial.augmented, pair, criterion)
            (slopes,) = torch.autograd.grad(loss, trial.levers)
        pair.logs['policy_distance'] = loss = loss.detach()
        if self.estimator == 'relax':  # a baseline that no draw enters
            with torch.no_grad():
                loss = loss - consistency(student, trial.plain, pair, criterion)
        self.learn_from(trial.draws, slopes, loss)

    def learn_from(self, draws: Draws, slopes: Tensor, gain: Tensor) -> None:
        """Average over ranks, and let the policy learn from it in the next step.

        Args:
            draws (Draws): What was applied.
            slopes (Tensor): ``(draws, 5)``, gradient of the upper loss at the levers.
            gain (Tensor): The upper loss, less what it is without any augmentation.
        """
        found = torch.cat([slopes.float().flatten(), gain.detach().float().view(1)])
        all_reduce(found, op='mean')
        self._pending = draws, HostCopy(found)

    def settle(self) -> None:
        """Let the policy take the step that the last batch asked for."""
        if self._pending is None:
            return
        (draws, copy), self._pending = self._pending, None
        found = copy.read()
        self.policy.update(draws, found[:-1].view(-1, 5), float(found[-1]))

    def unserved(self) -> str:
        text = f'the policy of DAFA(objective={self.objective!r}) never learns'
        return '' if self.objective == 'consistency' else text

    def check_time(self, progress: Progress) -> None:
        progress.check('start', self.start, self.by_epoch, begins=True)
        end = self.start + self.search_epochs
        progress.check('start + search_epochs', end, self.by_epoch)

    def before_train(self, runner: Runner) -> None:
        """A run that starts anew starts with a new policy."""
        if runner._resume and self._refused:
            raise ConfigError(f'links.{self.link}: cannot resume: {self._refused}')
        if not runner._resume:
            self.policy, self._pending = self._new_policy(), None

    def before_train_iter(self, runner: Runner, data_batch: dict) -> None:
        """The search step through the student, once for all stages of an objective."""
        if self.objective != 'consistency' and self.searching(Progress.of(runner)):
            search_step(runner, data_batch, caller=self)

    def note(self, runner: Runner, progress: Progress) -> None:
        """Note what the policy has become; the plots are drawn from it."""
        hub, root = runner.message_hub, f'kd_policy/{self.link}'
        if progress.epoch is None:
            hub.update_scalar(f'{root}/iteration', progress.iter)
        else:
            hub.update_scalar(f'{root}/epoch', progress.epoch)
        hub.update_scalar(f'{root}/entropy', self.policy.entropy())
        for name, parts in self.policy.summary().items():
            for part, value in parts.items():
                hub.update_scalar(f'{root}/{name}/{part}', value)

    def suspect(self, logged: Mapping[str, np.ndarray]) -> str:
        entropy, strength = (logged.get(f'policy_{n}') for n in ('entropy', 'strength'))
        if entropy is None or strength is None or len(self.policy.pairs) == 1:
            return ''
        if entropy[-1] >= 0.05 or strength[-1] <= 0.1:
            return ''
        return (
            'the policy of DAFA has collapsed, it draws one pair of operators only; '
            'lower its lr'
        )

    # ---- checkpoints ----------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The policy, its optimiser and the number of draws, on the host."""
        self.settle()
        return self.policy.state()

    def set_extra_state(self, state: Tensor) -> None:
        self._pending = None
        try:
            self.policy.load(state)
        except ValueError as error:  # matters to a run that resumes
            self._refused = str(error)


def consistency(
    student: list[Tensor],
    teacher: list[Tensor],
    pair: FeaturePair,
    criterion: Criterion,
) -> Tensor:
    """Half the mean squared difference, or the criterion where widths differ."""
    shapes = zip(student, teacher, strict=True)
    if all(s.shape == t.shape for s, t in shapes):
        terms = [
            (s.float() - t.float()).square().mean() / 2
            for s, t in zip(student, teacher, strict=True)
        ]
        return torch.stack(terms).mean()
    seen = FeaturePair(
        link=pair.link,
        student=student,
        teacher=teacher,
        samples=pair.samples,
        image_size=pair.image_size,
        weight=pair.weight,
    )
    return criterion(seen)
