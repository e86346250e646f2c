"""What carries the training: optimiser, checkpoints, averages, gradients."""

import copy
from collections.abc import Iterator

import torch
from mmengine.hooks import EMAHook
from torch import nn

from ...optimizers import groups_of, left_out
from ...utils.kinds import default_scope
from ...utils.randomness import kept_random
from .finding import Finding, fine, look, wrong
from .patient import Patient


def reach(patient: Patient) -> Iterator[Finding]:
    """Which of the student's weights does each link alone move?"""
    for name in patient.links:
        model = patient.copy()
        for other, link in model.distiller.links.items():
            link.criterion.weight *= float(other == name)
            link.share = None  # its first step only measures
        with kept_random(patient.device), default_scope(patient.cfg):
            torch.manual_seed(0)
            data = model.data_preprocessor(patient.batches[0], True)
            losses = model(**data, mode='loss')
            own = [v for k, v in losses.items() if k.startswith('loss_kd_')]
            total = torch.stack([v.sum() for v in own]).sum()
            if total.requires_grad:
                total.backward()
        yield _reached(name, model)


def _reached(name: str, model: nn.Module) -> Finding:
    check = f'{name}: reach'
    learn = [
        (n, p)
        for n, p in model.named_parameters()
        if p.requires_grad and not n.startswith('distiller.')
    ]
    moved = [n for n, p in learn if p.grad is not None and bool(p.grad.any())]
    text = f'its gradient reaches {len(moved)} of {len(learn)} tensors of the student'
    if not moved:
        return wrong(
            check,
            f'{text}: nothing is distilled',
            'a tap in a frozen part, a detach() in a stage, a loss that is constant',
        )
    if len(moved) < 0.1 * len(learn):
        return look(
            check,
            f'{text} ({moved[0]}, ...)',
            'is the part in front of the tap frozen? Tap a later module',
        )
    return fine(check, text)


def kept(patient: Patient) -> Iterator[Finding]:
    """Optimiser, checkpoint and average hold all of the links."""
    model = patient.model
    check = 'optimiser'
    wrapper = patient.runner.optim_wrapper
    learn = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    left = left_out(wrapper, model)
    resting = _without_lr(groups_of(wrapper))
    still = [n for n, p in learn if id(p) in resting]
    if left or still:
        which = left or still
        yield look(
            check,
            f'{len(which)} of {len(learn)} tensors are not trained ({which[0]})',
            'paramwise_cfg or the constructor leaves them out, or gives a rate of 0',
        )
    else:
        yield fine(check, f'all {len(learn)} tensors that learn')
    yield _resumes(patient)
    if finding := _average(patient):
        yield finding


def _without_lr(groups: list[dict]) -> set[int]:
    return {id(p) for g in groups if g.get('lr') == 0 for p in g['params']}


def _resumes(patient: Patient) -> Finding:
    """A state dict written and read gives the same model."""
    state = copy.deepcopy(patient.model.state_dict())
    twin = patient.copy()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    result = twin.load_state_dict(state, strict=False)
    lost = [*result.missing_keys, *result.unexpected_keys]
    after = twin.state_dict()
    lost += [
        k
        for k, v in state.items()
        if isinstance(v, torch.Tensor) and not torch.equal(v, after[k].to(v))
    ]
    own = sum(k.startswith('distiller.') for k in state)
    if lost:
        return wrong(
            'resume',
            f'{len(lost)} entries of the state dict do not come back ({lost[0]})',
            'a hook of the model renames or drops them',
        )
    return fine('resume', f'{len(state)} entries come back, {own} of them of the links')


def _average(patient: Patient) -> Finding | None:
    hook = next((h for h in patient.runner.hooks if isinstance(h, EMAHook)), None)
    if hook is None:
        return None
    averaged = hook.ema_model.module
    links = getattr(getattr(averaged, 'distiller', None), 'links', None)
    if links is None:
        return look('EMA', 'the average has no links', 'a resumed average starts anew')
    return fine(
        'EMA', 'the average is of the student and the links, not of the teacher'
    )
