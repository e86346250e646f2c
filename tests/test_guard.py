"""What becomes of a student's own loss is said; `share.tolerance` bounds it."""

import copy
import math

import pytest
import torch
import toys
from helpers import build, classification_batch, detection_batch, distill_cfg, fitnet
from mmengine.logging import MMLogger
from test_share_alone import step

from kd_mm.guard import LEAST
from kd_mm.schedule import Progress
from kd_mm.share import SETTLED, Share


def course(share: Share, losses) -> list[float]:
    """What is left of the part after each step with such a loss of the student."""
    left = []
    for loss in losses:
        share.hear(dict(loss_cls=torch.tensor(float(loss))))
        step(share, 1.0, 1.0)
        share.settle()
        left.append(float(share.guard.left))
    return left


def test_a_loss_that_rises_takes_from_the_part_until_it_is_back():
    share = Share(target=0.5, interval=2, tolerance=0.1)
    left = course(share, [1.0] * 2 * SETTLED + [1.5] * 40 + [1.0] * 400)
    before, risen = left[: 2 * SETTLED], left[2 * SETTLED : 2 * SETTLED + 40]
    assert before == [1.0] * 2 * SETTLED
    assert all(b <= a for a, b in zip(risen, risen[1:])) and risen[-1] < 0.01
    assert left[-1] == 1.0 and min(left) >= LEAST * 0.999


def test_what_is_left_scales_the_multiplier():
    share = Share(target=0.5, interval=2, tolerance=0.1)
    course(share, [1.0] * 2 * SETTLED)
    whole = float(share.weight)
    share.guard.left.fill_(0.25)
    step(share, 1.0, 1.0)
    assert float(share.weight) == pytest.approx(whole / 4, rel=1e-4)


def test_a_student_that_learns_is_not_held_back():
    """Bit for bit as without a guard, noise of batches included."""
    torch.manual_seed(0)
    noise = 1 + 0.05 * torch.randn(200)
    losses = [float(2 * 0.99**i * noise[i]) for i in range(200)]
    guarded = Share(target=0.5, interval=2, tolerance=0.1)
    assert course(guarded, losses) == [1.0] * 200
    free = Share(target=0.5, interval=2)
    for _ in losses:
        step(free, 1.0, 1.0)
        free.settle()
    assert torch.equal(free.balance, guarded.balance)
    assert torch.equal(free.weight, guarded.weight)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_loss_that_is_not_finite_says_nothing(bad):
    share = Share(target=0.5, interval=2, tolerance=0.1)
    assert course(share, [1.0] * 40 + [bad] * 40) == [1.0] * 80


@pytest.mark.parametrize('later', [2.0, math.nan])
def test_a_term_that_comes_later_is_no_rise(later):
    """YOLOX's head has an L1 loss in the last epochs; also after a resume."""
    share = Share(target=0.5, interval=2, tolerance=0.1)
    course(share, [1.0] * 30)
    again = Share(target=0.5, interval=2, tolerance=0.1)
    again.load_state_dict(copy.deepcopy(share.state_dict()))
    more = dict(loss_cls=[torch.ones(()) / 2] * 2, loss_l1=torch.tensor(later))
    for each in (share, again):
        for _ in range(30):
            each.hear(more)
            step(each, 1.0, 1.0)
            each.settle()
        assert float(each.guard.left) == 1
        assert float(each.guard.level[3]) == pytest.approx(1)
    assert torch.equal(share.guard.level, again.guard.level)


@pytest.mark.parametrize('sd', [0.2, 0.4])
def test_batches_that_differ_are_no_rise(sd, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', seen.append)
    for seed in range(8):
        torch.manual_seed(seed)
        share = Share(target=0.5, interval=10, tolerance=0.1)
        for loss in (1 + sd * torch.randn(1000)).abs():
            left = course(share, [loss])
            share.judge(Progress(), 'fpn')
        assert left[-1] > 0.2, (seed, left[-1])
    assert len(seen) <= 1


@pytest.mark.parametrize(
    ('first', 'later', 'bounded'), [(-1, -2, False), (1, -1, False), (0, 1, False)]
)
def test_a_loss_at_or_below_0_bounds_nothing(first, later, bounded):
    share = Share(target=0.5, interval=2, tolerance=0.1)
    left = course(share, [first] * 40 + [later] * 100)
    assert (left[-1] < 1) == bounded
    share.guard.tell('fpn')


def test_what_mmengine_adds_up_is_heard_whatever_else_there_is():
    """Tasks in turn, numbers that are no tensors, lists; nothing at all."""
    share = Share(target=0.5, interval=2, tolerance=0.1)
    kinds: list[dict] = [
        dict(loss_a=torch.ones(3)),
        dict(loss_b=[torch.tensor(1), torch.zeros(())], accuracy=torch.tensor(50.0)),
        dict(loss_c=[], loss_d=0.5),
        dict(),
    ]
    for i in range(80):
        share.hear(kinds[i % 4])
        step(share, 1.0, 1.0)
        share.settle()
    assert float(share.guard.left) == 1
    assert float(share.guard.level[3]) == pytest.approx(1, rel=1e-3)


def test_its_sums_stay_in_fp32():
    share = Share(target=0.5, tolerance=0.1).half()
    assert {b.dtype for b in share.guard.buffers()} == {torch.float32}


@pytest.mark.parametrize(
    ('tolerance', 'text'),
    [(None, 'share.tolerance=0.1 would bound it'), (0.1, 'back near 1.1 times')],
)
def test_a_loss_that_rises_is_said_once_with_the_links_name(
    tolerance, text, monkeypatch
):
    seen: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', seen.append)
    share = Share(target=0.5, interval=2, tolerance=tolerance)
    for loss in [1.0] * 40 + [2.0] * 200:
        course(share, [loss])
        share.judge(Progress(), 'fpn')
    (line,) = seen
    assert line.startswith("links.fpn: the student's own loss is 1.")
    assert text in line
    assert tolerance or float(share.guard.left) == 1


def test_an_overfitted_student_keeps_its_loss_beside_a_teacher_of_noise():
    """A real student on one batch, at a high share: the guard ends the harm."""
    ends = {}
    for tolerance in (None, 0.1):
        torch.manual_seed(0)
        share = dict(target=0.9, falls_to=1.0, interval=2, tolerance=tolerance)
        links = fitnet(share=share)
        model = build(distill_cfg(toys.classifier(), toys.classifier(base=16), links))
        batch, losses = classification_batch(), []
        plain = torch.optim.SGD(model.parameters(), lr=0.05)
        for i in range(150):
            if i < 50:  # alone
                total = model._student_loss(*_inputs(model, batch))['loss']
            else:
                found = model.loss(*_inputs(model, batch))
                losses.append(float(found['loss'].detach()))
                total, _ = model.parse_losses(found)
            plain.zero_grad()
            total.backward()
            plain.step()
        ends[tolerance] = sum(losses[-20:]) / 20
    assert ends[0.1] < 0.5 * ends[None], ends


def _inputs(model, batch):
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    return data['inputs'], data['data_samples']


def test_only_steps_that_the_student_learns_from_are_heard():
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), fitnet(share=0.5))
    model = build(cfg).train()
    guard = model.distiller.links['fpn'].share.guard
    data = _inputs(model, detection_batch())
    with torch.no_grad():
        model.loss(*data)
    with model.distiller.not_measuring():
        model.loss(*data)
    assert guard.heard.tolist() == [0, 0, 0]
    losses = model.loss(*data)
    own = {k: v for k, v in losses.items() if 'kd' not in k}
    total = float(model.parse_losses(own)[0].detach())
    heard = [total, total**2, 1.0]
    assert guard.heard.tolist() == pytest.approx(heard, rel=1e-4)
