"""What the doctor makes of the losses and shares of some steps."""

from types import SimpleNamespace

import pytest

from kd_mm.analysis.doctor import course as courses
from kd_mm.analysis.doctor.course import Course
from kd_mm.criteria import MSELoss
from kd_mm.share import Share

PATIENT = SimpleNamespace(links=dict(map=None), student_trained=False)


def _course(*, steps, width=4, rise=0.0):
    """Losses of 1, 2, 3 ... by batch, of a link and of the task, that rise by pass."""
    values = [(i % width + 1.0) * (1 + rise * (i // width)) for i in range(steps)]
    losses = [dict(loss_kd_map=v, loss_cls=v) for v in values]
    return Course(losses=losses, width=width)


@pytest.mark.parametrize('width', [3, 4])
@pytest.mark.parametrize('steps', [8, 9, 10, 11, 20])
def test_losses_that_stay_as_they_are_neither_fall_nor_rise(steps, width):
    still = _course(steps=steps, width=width)
    assert still.fall(link='map') == pytest.approx(0)
    found = courses._falls('map', still)
    assert found.verdict == 'look' and 'does not fall' in found.text


@pytest.mark.parametrize('steps', [8, 9])
def test_a_task_that_rises_in_every_batch_is_told(steps):
    still, rising = _course(steps=steps), _course(steps=steps, rise=0.4)
    found = courses._task(PATIENT, rising, still)
    assert found.verdict == 'look' and 'the links make it rise' in found.text
    assert '2.5 at first, 3.5 after 8 steps, 2.5 without' in found.text
    assert courses._task(PATIENT, still, still).verdict == 'fine'


def test_fewer_steps_than_two_passes_tell_nothing_of_losses():
    few = _course(steps=7, rise=9.0)
    assert courses._works(few, PATIENT)
    for found in (courses._falls('map', few), courses._task(PATIENT, few, few)):
        assert '7 steps are too few' in found.text and '--steps 8' in found.remedy


@pytest.mark.parametrize(
    ('shares', 'verdict', 'says'),
    [
        ([0.0] * 3, 'look', '4 steps are too few to measure it'),
        ([0.0, 0.0, 0.7], 'fine', '0.70 of the gradient over 1 batch; it is brought'),
        ([0.0] * 19, 'wrong', 'no gradient was seen'),
        ([], 'wrong', 'no gradient was seen'),  # nothing to measure in four steps
    ],
)
def test_a_share_that_was_not_measured_yet_is_no_share(shares, verdict, says):
    link = SimpleNamespace(share=Share(target=0.9), criterion=MSELoss(weight=1.0))
    steps = max(4, len(shares) + 1)
    few = Course(
        losses=[dict(loss=1.0)] * steps, shares=[{}, *(dict(map=v) for v in shares)]
    )
    found = courses._share('map', link, few)
    assert found.verdict == verdict and says in found.text
