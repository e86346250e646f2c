"""On a card without values a step that reads one fails, and one that mixes devices."""

import subprocess
import sys

from conftest import ROOT


def test_no_step_reads_a_value_or_mixes_devices():
    """See fake_card.py, and why it has a process of its own."""
    call = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    done = subprocess.run(
        [*call, 'tests/fake_card.py'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert ' passed' in done.stdout and 'skipped' not in done.stdout
