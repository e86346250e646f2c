"""A run that is stopped, whenever and however, goes on and loses little."""

import signal

import pytest
from interruptions import FULL, STEPS, rows


@pytest.mark.slow
def test_a_stopped_run_resumes_and_loses_at_most_one_interval(tmp_path):
    codes = dict(SIGINT=130, SIGTERM=143, SIGKILL=-signal.SIGKILL)
    codes[FULL] = 2
    # SIGINT and SIGTERM do the same: all of both are for the script to show
    both = ('second checkpoint half written', 'in the last epoch')
    found = list(
        rows(tmp_path, lambda point, s: s in ('SIGKILL', FULL) or point in both)
    )
    assert len(found) == 17
    for row in found:
        assert row.code == codes[row.stop], row
        assert not row.broken and row.same and 0 <= row.lost <= STEPS, row
        if row.stop != 'SIGKILL':
            assert 'can be resumed' in row.line or 'nothing to resume' in row.line, row
        if row.stop == FULL:
            assert 'No space left on device' in row.line, row
