"""DAFA's policy: which operators, how likely, how strong - and how it learns.

All of it lives on the host: five numbers go to the device in a step, six come back.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import OPERATORS, Chance

PARTS = ('weight', 'probability', 'magnitude')
LIMIT = 1e-3  # probabilities stay away from 0 and 1, where nothing can be learned
TINY = 1e-9  # an operator that never runs has a gradient of 0, not NaN
HIDDEN = 16  # of the control variate


@dataclass(frozen=True)
class Draw:
    """One sampled sub-policy.

    Attributes:
        index (int): Of the sub-policy.
        names (tuple[str, str]): Its operators, in order.
        bits (tuple[bool, bool]): Whether each of them runs.
        magnitudes (tuple[float, float]): How strong each is, in [0, 1].
        chances (tuple[Chance, Chance]): What else is random in them.
        uniforms (Tensor): The numbers in (0, 1) that decided: one per sub-policy, one
            per bit, then as many again for the control variate.
    """

    index: int
    names: tuple[str, str]
    bits: tuple[bool, bool]
    magnitudes: tuple[float, float]
    chances: tuple[Chance, Chance]
    uniforms: Tensor

    def levers(self) -> Tensor:
        """What gradients are taken at: the choice, the bits, the magnitudes."""
        return torch.tensor([1.0, *map(float, self.bits), *self.magnitudes])


class Draws(tuple[Draw, ...]):
    """The draws of one step, one for every part of the batch."""

    def levers(self) -> Tensor:
        """``(parts, 5)``, see :meth:`Draw.levers`."""
        return torch.stack([draw.levers() for draw in self])


class Policy:
    """Chi = {alpha, beta, m} of arXiv 2409.18785, its sampling and its optimiser.

    A sub-policy is an unordered pair of distinct operators and has a weight alpha.
    Probability beta and magnitude m belong to the operator, whatever sub-policy it is
    drawn in (our choice: it learns from eight times as many draws as it would if every
    sub-policy had its own). Every draw is determined by the seed and the number of
    draws before it.

    Args:
        operators (Sequence[str]): Names of operators, at least two.
        count (int, optional): Number of sub-policies, chosen at random among the
            pairs. Defaults to None, all pairs: 36 of nine operators.
        estimator (str): 'gumbel' or 'relax', see :meth:`gradient`.
        temperature (float): Of the relaxed samples.
        optimizer (dict): Keyword arguments of :class:`torch.optim.Adam`. Its weight
            decay draws alpha to uniform weights; beta and m have none, since 0 is no
            neutral value for them.
        seed (int): Of everything random.
        least (float): Lowest probability of an operator.
    """

    def __init__(
        self,
        *,
        operators: Sequence[str],
        count: int | None,
        estimator: str,
        temperature: float,
        optimizer: dict,
        seed: int,
        least: float = LIMIT,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        pairs = list(itertools.combinations(operators, 2))
        if count is not None and count < len(pairs):
            chosen = torch.randperm(len(pairs), generator=generator)[:count]
            pairs = [pairs[i] for i in sorted(chosen.tolist())]
        self.pairs, self.operators = pairs, tuple(operators)
        self.estimator, self.temperature, self.seed = estimator, temperature, seed
        self.draws, self.least = 0, least
        places = {name: i for i, name in enumerate(self.operators)}
        self.members = torch.tensor([[places[name] for name in p] for p in pairs])
        # alpha (K,), then beta (n,) and m (n,) of n operators, flat
        k, n = len(pairs), len(places)
        self.chi = torch.cat([torch.full((k,), 1e-3), torch.full((2 * n,), 0.5)])
        self.weight_decay = optimizer['weight_decay']
        groups = [dict(params=[self.chi], **optimizer | dict(weight_decay=0.0))]
        self.control = torch.zeros(0)
        if estimator == 'relax':
            # weights (HIDDEN, k + 2), bias (HIDDEN,), output (HIDDEN,), bias (1,)
            size = HIDDEN * (k + 4) + 1
            self.control = 0.1 * torch.randn(size, generator=generator)
            self.control[-HIDDEN - 1 :] = 0  # starts as plain score function
            groups.append(dict(params=[self.control], lr=1e-2))
        self.optimizer = torch.optim.Adam(groups)

    def split(self, chi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha ``(K,)``, beta ``(n,)`` and m ``(n,)`` as views of chi."""
        n = len(self.operators)
        alpha, beta, magnitude = chi.split([len(self.pairs), n, n])
        return alpha, beta, magnitude

    # ---- sampling -------------------------------------------------------------

    def draw_all(self, parts: int) -> Draws:
        """The next draw for every part of a batch."""
        return Draws(self.draw() for _ in range(parts))

    def draw(self) -> Draw:
        """The next sub-policy; Gumbel-max for the choice, logistic for the bits."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.draws)
        self.draws += 1
        k = len(self.pairs)
        uniforms = torch.rand(2 * (k + 2), generator=generator, dtype=torch.float64)
        uniforms = uniforms.clamp(1e-9, 1 - 1e-9)
        alpha, beta, magnitude = self.split(self.chi)
        index = int((alpha + gumbel(uniforms[:k])).argmax())
        own = self.members[index]
        bits = uniforms[k : k + 2] > 1 - beta[own]
        return Draw(
            index,
            self.pairs[index],
            tuple(bits.tolist()),
            tuple(magnitude[own].tolist()),
            (self._chance(generator), self._chance(generator)),
            uniforms,
        )

    @staticmethod
    def _chance(generator: torch.Generator) -> Chance:
        x, y = (2 * torch.rand(2, generator=generator) - 1).tolist()
        return Chance((x, y), int(torch.randint(2**31, (), generator=generator)))

    # ---- learning -------------------------------------------------------------

    def update(self, draws: Draws, slopes: Tensor, gain: float) -> None:
        """One step of Adam on chi.

        Args:
            draws (Draws): What was applied, one for every part of the batch.
            slopes (Tensor): ``(parts, 5)``, gradient of the upper loss of the whole
                batch at :meth:`Draws.levers`.
            gain (float): The upper loss, less what it is without any augmentation.
        """
        if not bool(slopes.isfinite().all()) or gain != gain:
            return  # an overflow in half precision says nothing about the policy
        found = [
            self.gradient(draw, own, gain)
            for draw, own in zip(draws, slopes, strict=True)
        ]
        self.chi.grad = torch.stack([chi for chi, _ in found]).sum(0)
        controls = [control for _, control in found if control is not None]
        self.control.grad = torch.stack(controls).sum(0) if controls else None
        k = len(self.pairs)
        self.chi.grad[:k] += self.weight_decay * self.chi[:k]
        self.optimizer.step()
        self.optimizer.zero_grad()
        _, beta, magnitude = self.split(self.chi)
        beta.clamp_(self.least, 1 - LIMIT)
        magnitude.clamp_(0, 1)

    def gradient(
        self, draw: Draw, slopes: Tensor, gain: float
    ) -> tuple[Tensor, Tensor | None]:
        """Estimate the gradient for chi, and for the control variate if there is one.

        'gumbel' is the straight-through Gumbel-softmax: hard samples forward, the
        slopes of the relaxed ones backward; biased, of low variance. 'relax' is RELAX
        (Grathwohl et al., arXiv 1711.00123): a score function whose variance is
        reduced by a small network; unbiased. Magnitudes take their slopes in both.
        """
        chi = self.chi.clone().requires_grad_()
        alpha, beta, magnitude = self.split(chi)
        own = self.members[draw.index]
        alpha, beta = alpha.double(), beta[own].double().clamp(min=TINY)
        tied = (slopes[3:] * magnitude[own]).sum()
        if self.estimator == 'gumbel':
            k = len(self.pairs)
            logits = (alpha + gumbel(draw.uniforms[:k])) / self.temperature
            logistic = draw.uniforms[k : k + 2].logit()
            bits = torch.sigmoid((beta.logit() + logistic) / self.temperature)
            soft = torch.cat([logits.softmax(0)[draw.index : draw.index + 1], bits])
            total = (slopes[:3] * soft).sum() + tied
            return torch.autograd.grad(total, chi)[0], None
        control = self.control.clone().requires_grad_()
        bits = torch.tensor(draw.bits)
        log_p = (
            alpha.log_softmax(0)[draw.index],
            torch.where(bits, beta, 1 - beta).log().sum(),
        )
        estimate = torch.zeros_like(chi, dtype=torch.float64)
        for score, free, tried in zip(log_p, *self._relaxed(draw, alpha, beta)):
            c_free, c_tried = (self._control(control, z) for z in (free, tried))
            d_score, d_free, d_tried = (
                torch.autograd.grad(x, chi, create_graph=True)[0]
                for x in (score, c_free, c_tried)
            )
            estimate = estimate + (gain - c_tried) * d_score + d_free - d_tried
        (d_control,) = torch.autograd.grad(estimate.square().sum(), control)
        (d_tied,) = torch.autograd.grad(tied, chi)
        return estimate.detach().float() + d_tied, d_control

    def _relaxed(
        self, draw: Draw, alpha: Tensor, beta: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Relaxed samples as drawn, and drawn anew given what came out.

        The choice and the bits have control variates of their own: bits belong to one
        sub-policy, so one of both would jump where the choice changes, and a jump has
        no gradient.
        """
        k = len(self.pairs)
        log_p = alpha.log_softmax(0)
        u, u_bits, v, v_bits = draw.uniforms.split([k, 2, k, 2])
        top = -v[draw.index].log()
        chosen = torch.arange(k) == draw.index
        tried = -torch.where(chosen, top, -v.log() / log_p.exp() + top).log()
        given = torch.where(
            torch.tensor(draw.bits), v_bits * beta + (1 - beta), v_bits * (1 - beta)
        )
        out: tuple[list[Tensor], list[Tensor]] = ([], [])
        for side, choice, bit in (
            (out[0], log_p + gumbel(u), beta.logit() + u_bits.logit()),
            (out[1], tried, beta.logit() + given.logit()),
        ):
            soft = (choice / self.temperature).softmax(0)
            side.append(torch.cat([soft, torch.zeros_like(bit)]))
            soft = torch.sigmoid(bit / self.temperature)
            side.append(torch.cat([chosen.double(), soft]))
        return out

    def _control(self, control: Tensor, relaxed: Tensor) -> Tensor:
        width = len(relaxed)
        weight, bias, out, shift = control.double().split(
            [HIDDEN * width, HIDDEN, HIDDEN, 1]
        )
        hidden = torch.tanh(F.linear(relaxed, weight.view(HIDDEN, width), bias))
        return (hidden * out).sum() + shift[0]

    # ---- what it has become ---------------------------------------------------

    def entropy(self) -> float:
        """Of the choice of a sub-policy, in nats."""
        alpha, _, _ = self.split(self.chi)
        return float(torch.distributions.Categorical(logits=alpha).entropy())

    def summary(self) -> dict[str, dict[str, float]]:
        """Per operator: probability to be drawn, to run when drawn, and magnitude."""
        alpha, beta, magnitude = self.split(self.chi)
        drawn = torch.zeros(len(self.operators))
        drawn.index_add_(
            0, self.members.flatten(), alpha.softmax(0).repeat_interleave(2)
        )
        rows = torch.stack([drawn, beta, magnitude], 1).tolist()
        return {
            name: dict(
                zip(PARTS if OPERATORS[name].graded else PARTS[:2], row, strict=False)
            )
            for name, row in zip(self.operators, rows, strict=True)
        }

    def strength(self) -> float:
        """Expected number of operators that run in a step."""
        alpha, beta, _ = self.split(self.chi)
        return float((alpha.softmax(0) * beta[self.members].sum(1)).sum())

    # ---- checkpoints ----------------------------------------------------------

    def state(self) -> Tensor:
        """Everything as one float64 vector, which holds float32 and counts exactly."""
        parts = [torch.tensor([float(self.draws)])]
        for parameter in self._parameters():
            memory = self.optimizer.state.get(parameter, {})
            parts += [
                parameter,
                memory.get('exp_avg', torch.zeros_like(parameter)),
                memory.get('exp_avg_sq', torch.zeros_like(parameter)),
                torch.as_tensor(memory.get('step', 0.0)).reshape(1),
            ]
        return torch.cat([part.detach().double() for part in parts])

    def load(self, state: Tensor) -> None:
        """Restore :meth:`state`.

        Raises:
            ValueError: If it belongs to a policy of another size.
        """
        sizes = [(len(p), len(p), len(p), 1) for p in self._parameters()]
        flat = [1, *itertools.chain.from_iterable(sizes)]
        if state.numel() != sum(flat):
            raise ValueError(
                f'the policy in the checkpoint has {state.numel()} numbers, this one '
                f'{sum(flat)}: other operators, policies or estimator'
            )
        _, *rest = state.to('cpu', copy=True).float().split(flat)
        self.draws = int(state[0])
        for i, parameter in enumerate(self._parameters()):
            value, mean, square, step = rest[4 * i : 4 * i + 4]
            parameter.copy_(value)
            self.optimizer.state[parameter] = dict(
                step=step[0].clone(), exp_avg=mean.clone(), exp_avg_sq=square.clone()
            )

    def _parameters(self) -> list[Tensor]:
        return [p for g in self.optimizer.param_groups for p in g['params']]


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers."""
    return -(-uniforms.log()).log()
