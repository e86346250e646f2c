"""tools/rank_teachers.py: a table, files, and one line for a mistake."""

import json
import runpy
import shutil

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    ('teachers', 'names'),
    [
        (['c/r101.py=a.pth', 'c/r50.py=a.pth'], ['r101', 'r50']),
        (['r101.py=a.pth', 'r101.py=b.pth'], ['r101=a', 'r101=b']),
        (['a/t.py=a/1.pth', 'b/t.py=b/1.pth'], ['t (1)', 't (2)']),
        (['t.py=a.pth', 't.py=a.pth'], ['t', 't']),
    ],
)
def test_teachers_are_told_apart_by_their_names(teachers, names):
    tool = runpy.run_path(str(ROOT / 'tools/rank_teachers.py'))
    assert tool['names_of'](teachers) == names


@pytest.mark.slow
def test_ranks_teachers_and_refuses_what_is_none(toy, start):
    work = toy / 'work'
    process = start('train.py', toy / 'plain.py', '--work-dir', work)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    checkpoint = work / 'epoch_1.pth'
    (toy / 'lr=0.01').mkdir()
    config = shutil.copy(toy / 'plain.py', toy / 'lr=0.01' / 'plain.py')
    teacher = f'{config}={checkpoint}'

    out = toy / 'out'
    again = f'{toy / "plain.py"}={checkpoint}'  # its name is the same
    arguments = [toy / 'distilled.py', teacher, again, '--student', checkpoint]
    options = ['--images', '16', '--steps', '5', '--evaluate', '--out', out]
    process = start('rank_teachers.py', *arguments, *options)
    said, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert 'best explained by the student first' in said
    assert (out / 'teachers.png').is_file()
    content = json.loads((out / 'teachers.json').read_text())
    first, second = content['ratings']
    assert [row.pop('teacher') for row in (first, second)] == ['plain (1)', 'plain (2)']
    assert first == second
    assert first['cka'] == pytest.approx(1.0, abs=1e-3) and 'metric' in first

    for arguments, message in (
        ([toy / 'distilled.py', toy / 'plain.py'], 'CONFIG=CHECKPOINT'),
        ([toy / 'plain.py', teacher], 'does not distil'),
        ([toy / 'distilled.py', f'{toy / "no.py"}={checkpoint}'], 'no.py'),
    ):
        process = start('rank_teachers.py', *arguments, '--out', out)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2, error
        last = error.strip().splitlines()[-1]
        assert last.startswith('error: ') and message in last
