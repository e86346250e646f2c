"""A run that is stopped, whenever and however, goes on and loses little."""

import signal

import pytest
from interruptions import FULL, STEPS, all_stops, measure, prepare

CODES = dict(SIGINT=130, SIGTERM=143, SIGKILL=-signal.SIGKILL) | {FULL: 2}
# SIGINT and SIGTERM do the same: all of both are for the script to show
BOTH = ('second checkpoint half written', 'in the last epoch')
CHOSEN = [
    (point, stop)
    for point, stop in all_stops()
    if stop in ('SIGKILL', FULL) or point in BOTH
]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stopped')
    return folder, *prepare(folder)


@pytest.mark.slow
@pytest.mark.parametrize(('point', 'stop'), CHOSEN)
def test_a_stopped_run_resumes_and_loses_at_most_one_interval(prepared, point, stop):
    folder, config, whole = prepared
    row = measure(folder, point, stop, config, whole)
    assert row.code == CODES[stop], row
    assert not row.broken and row.same and 0 <= row.lost <= STEPS, row
    if stop != 'SIGKILL':
        assert 'can be resumed' in row.line or 'nothing to resume' in row.line, row
    if stop == FULL:
        assert 'No space left on device' in row.line, row


def test_enough_of_them_are_tried():
    assert len(CHOSEN) == 17
