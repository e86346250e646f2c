"""DPK: how much of the teacher is given, and at which positions."""

import math

import pytest
import torch
from dpk_toys import make_pair, ready
from mmengine.logging import MessageHub

from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress
from kd_mm.stages.dpk.cka import cka
from kd_mm.stages.dpk.dpk import bounded


@pytest.mark.parametrize('ratio', [0.0, 1.0])
def test_all_or_nothing_of_the_teacher(ratio):
    pair = make_pair()
    stage = ready(pair, ratio=ratio)
    student = pair.student[0]
    out = stage(pair).student[0]
    (out - pair.teacher[0]).square().mean().backward()
    reached = student.grad is not None and bool(student.grad.abs().sum() > 0)
    assert reached == (ratio == 0.0)
    idle = stage.nets['0'].encoders['teacher' if ratio == 0.0 else 'student']
    # under DDP a parameter without a gradient would stall the reducer
    assert all(p.grad is not None and not p.grad.any() for p in idle.parameters())


def test_the_ratio_follows_the_gap():
    pair = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
    stage = ready(pair, images=0)
    maps, seen = pair.teacher[0], {}
    for name, student in (
        ('same', maps.clone()),
        ('scaled', 3 * maps.flip(1)),
        ('near', maps + 0.5 * torch.randn_like(maps)),
        ('foreign', torch.randn_like(maps)),
    ):
        one = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
        one.student, one.teacher = [student], [maps]
        stage(one)
        seen[name] = float(stage.ratios[0])
        alike = float(cka(student, maps))  # 8 x 8 cells: nothing is averaged
        inside = 0 < 1 - alike < 1
        expected = min(max(1 - alike, 0.1), 0.95) if inside else 0.5
        assert seen[name] == pytest.approx(expected, abs=1e-4), name
    assert seen['near'] < seen['foreign'] or seen['foreign'] == 0.5


@pytest.mark.parametrize(
    ('raw', 'expected'),
    [(0.3, 0.3), (0.01, 0.1), (0.99, 0.95), (0.0, 0.5), (1.2, 0.5), (math.nan, 0.5)],
)
def test_a_ratio_is_bounded_or_falls_back(raw, expected):
    got = bounded(torch.tensor(raw), (0.1, 0.95), 0.5)
    assert float(got) == pytest.approx(expected)


def test_a_ratio_takes_effect_in_the_next_step():
    pair = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
    stage, shown, measured = ready(pair), [], []
    for _ in range(3):
        one = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
        one.student = [one.teacher[0] + 0.7 * torch.randn(8, 4, 8, 8)]
        shown.append(float(stage(one).logs['ratio_0']))
        measured.append(float(stage.ratios[0]))
    assert shown == pytest.approx([0.5, *measured[:2]])


def test_small_batches_are_filled_up_with_earlier_images():
    student, teacher = torch.randn(8, 4, 8, 8), torch.randn(8, 6, 8, 8)
    teacher[:, :4] += 2 * student
    whole = cka(student, teacher)
    stage, seen = ready(make_pair(), images=8), []
    for i in range(0, 8, 2):
        pair = make_pair()
        pair.student, pair.teacher = [student[i : i + 2]], [teacher[i : i + 2]]
        seen.append(stage(pair).logs['cka_0'])
    assert seen[0].isnan() and not seen[1].isnan()  # two images, four images
    torch.testing.assert_close(seen[3], whole, atol=1e-5, rtol=1e-4)
    pair = make_pair()  # the oldest two make way
    pair.student, pair.teacher = [student[:2]], [teacher[:2]]
    torch.testing.assert_close(stage(pair).logs['cka_0'], whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ('ratio', 'expected'),
    [
        (0.25, [0.25, 0.25, 0.25]),
        ('linear', [0.8, 0.5, 0.35]),
        ('exponential', [0.8, 0.4, 0.8 * 0.25**0.75]),
    ],
)
def test_schedules_of_the_ratio(ratio, expected):
    pair, hub = make_pair(), MessageHub.get_current_instance()
    bounds = dict(bounds=(0.2, 0.8)) if isinstance(ratio, str) else {}
    stage, seen = ready(pair, ratio=ratio, **bounds), []
    try:
        for done in (0, 10, 15):
            for name, value in dict(iter=done, max_iters=20).items():
                hub.update_info(name, value)
            seen.append(float(stage(make_pair()).logs['ratio_0']))
    finally:
        hub.runtime_info.clear()
    assert seen == pytest.approx(expected)


def test_an_exponential_fall_never_rises():
    stage = ready(make_pair(), ratio='exponential', bounds=(0.0, 5e-4))
    begun = Progress(0, 0, 1, 20)
    for now in (begun, Progress(1, 20, 1, 20)):
        assert stage._current_ratios(now) == [5e-4]
    with pytest.raises(ConfigError, match='exponential.*falls from'):
        ready(make_pair(), ratio='exponential', bounds=(0.0, 0.0))


def test_places_by_energy_are_ordered_in_half_precision():
    stage = ready(make_pair(), positions='energy')
    teacher = torch.zeros(1, 6, 8, 8, dtype=torch.half)
    teacher[..., 0, :3] = torch.tensor([400.0, 300.0, 500.0], dtype=torch.half)
    order = stage._order(teacher, stage.nets['0'], 0)
    assert order[0, :3].tolist() == [2, 0, 1]


def test_random_ratios_stay_within_the_bounds_and_change():
    stage = ready(make_pair(), ratio='random', bounds=(0.3, 0.6))
    seen = [float(stage(make_pair()).logs['ratio_0']) for _ in range(50)]
    assert 0.3 <= min(seen) < 0.36 and 0.54 < max(seen) <= 0.6


def test_cosine_compares_equal_widths():
    shapes = ((4, 6, 8, 8),)
    pair = make_pair(shapes, shapes)
    stage = ready(pair, ratio='cosine')
    expected = torch.nn.functional.cosine_similarity(
        pair.student[0].flatten(1), pair.teacher[0].flatten(1)
    ).mean()
    torch.testing.assert_close(stage(pair).logs['cosine_0'], expected.detach())
    with pytest.raises(ConfigError, match='two widths'):
        ready(make_pair(), ratio='cosine')


def test_energy_gives_the_teachers_strongest_positions():
    pair = make_pair(((2, 4, 4, 4),), ((2, 6, 4, 4),))
    pair.teacher[0][:, :, 1, 2] = 30.0
    stage = ready(pair, ratio=0.07, positions='energy')  # one of 16
    order = stage._order(pair.teacher[0], stage.nets['0'], 0)
    assert order[:, 0].tolist() == [6, 6]
    assert order.sort(1).values.tolist() == [list(range(16))] * 2


def test_random_positions_differ_by_image_and_step_and_repeat_by_seed():
    def orders():
        stage = ready(make_pair(), seed=3)
        out = []
        for _ in range(2):
            out += list(stage._order(torch.zeros(2, 6, 8, 8), stage.nets['0'], 0))
            stage(make_pair())
        return torch.stack(out)

    first = orders()
    assert len({tuple(o.tolist()) for o in first}) == 4
    torch.rand(5)
    assert torch.equal(first, orders())
