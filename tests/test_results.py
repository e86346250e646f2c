"""The numbers in the documentation are those of the result files."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def tables():
    path = ROOT / 'benchmarks' / 'tables.py'
    spec = importlib.util.spec_from_file_location('tables', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(*arguments):
    """Output of git in the project; empty where there is no repository."""
    done = subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ''


def test_the_pages_are_what_the_script_writes(tables, tmp_path):
    texts, results = [page.read_text() for page in tables.PAGES], tables.RESULTS
    if git('status', '--porcelain', 'benchmarks/results'):
        # a benchmark is adding rows: what counts is what is committed
        names = [page.relative_to(ROOT).as_posix() for page in tables.PAGES]
        texts = [git('show', f'HEAD:{name}') for name in names]
        results = tmp_path
        for name in git('ls-tree', '--name-only', 'HEAD:benchmarks/results').split():
            content = git('show', f'HEAD:benchmarks/results/{name}')
            (tmp_path / name).write_text(content)
    assert any('<!-- table: kcd_digits' in text for text in texts)
    for text in texts:
        assert text == tables.fill(text, results), 'run python benchmarks/tables.py'


def test_seeds_are_paired_and_missing_runs_are_blank(tables, tmp_path):
    values = {('a', 0): 10.0, ('a', 1): 20.0, ('b', 0): 12.0, ('b', 1): 26.0}
    values[('new', 1)] = 21.0
    rows = [
        dict(method=method, seed=seed, mAP=value, mAP_50=value, images=6, epochs=2)
        for (method, seed), value in values.items()
    ]
    rows.append(dict(rows[0], epochs=3, mAP=1.0))
    rows.append(dict(rows[0], method='of another table'))
    rows.append(dict(method='new', seed=2, failed='nan', images=6, epochs=2))
    (tmp_path / 'toy.json').write_text(json.dumps(rows))
    marker = '<!-- table: toy key=method baseline=a names="a,b,new,not run" -->\n'
    text = tables.fill(f'{marker}old\n<!-- /table -->\n', tmp_path)
    assert text.startswith(marker) and 'old' not in text
    assert 'Images 6, epochs 2:' in text and 'Images 6, epochs 3:' in text
    assert '| a | 2 | 15.00 ± 7.07 | 15.00 ± 7.07 |  |' in text
    assert '| b | 2 | 19.00 ± 9.90 | 19.00 ± 9.90 | +4.00 ± 2.00 |' in text
    assert '| new | 1 (1 failed) | 21.00 | 21.00 | +1.00 |' in text
    assert '| not run |  |  |  |  |' in text
    assert 'another table' not in text
    everything = tables.fill(text.replace(' names="a,b,new,not run"', ''), tmp_path)
    assert '| of another table | 1 |' in everything
    assert '| a | 1 | 1.00 | 10.00 |  |' in text
    assert tables.fill(text, tmp_path) == text


def test_a_table_without_results_is_blank(tables, tmp_path):
    text = '<!-- table: none key=method baseline=a names=a,b -->\n<!-- /table -->\n'
    assert '| b |  |  |  |  |' in tables.fill(text, tmp_path)
    with pytest.raises(TypeError, match='bogus'):
        tables.fill(text.replace('names', 'bogus'), tmp_path)


def test_the_planted_permutation_is_undone():
    path = ROOT / 'benchmarks' / 'results' / 'kcd_planted.json'
    runs = json.loads(path.read_text())['runs']

    def loss(teacher, transform, **align):
        (row,) = (
            r
            for r in runs
            if (r['teacher'], r['transform']) == (teacher, transform)
            and all(r.get(k) == v for k, v in align.items())
        )
        return row['last_mse']

    unpermuted = loss('plain', 'identity')
    for align in (dict(similarity='spatial'), dict(similarity='gap', share=True)):
        assert loss('permuted', 'bipartite', **align) == pytest.approx(unpermuted)
    assert loss('permuted', 'identity') > 3 * unpermuted
    assert loss('permuted', 'random') > 3 * unpermuted


def test_what_papers_report_stands_beside_it(tables, tmp_path):
    marker = (
        '<!-- table: not_there key=method baseline=alone metrics=top1 '
        'names=alone,DKD,MGD published=cifar100_resnet56_resnet20 -->\n'
    )
    text = tables.fill(f'{marker}<!-- /table -->\n', tmp_path)
    assert (
        '| method | seeds | top1 | top1 - alone (± standard error) | published |'
        in text
    )
    assert '| alone |  |  |  | 69.06 |' in text
    assert '| DKD |  |  |  | 71.97 |' in text
    assert '| MGD |  |  |  |  |' in text


def test_pairs_are_differences_to_the_own_host(tables, tmp_path):
    values = {('a', 0): 1.0, ('a', 1): 2.0, ('b', 0): 4.0, ('b', 1): 7.0, ('b', 2): 9.0}
    rows = [dict(method=m, seed=s, mAP=v) for (m, s), v in values.items()]
    (tmp_path / 'toy.json').write_text(json.dumps(rows))
    marker = '<!-- table: toy key=method pairs="b|a,c|a" metric=mAP -->\n'
    text = tables.fill(f'{marker}<!-- /table -->\n', tmp_path)
    assert '| b | a | 3 | +4.00 ± 1.00 (2 pairs) |' in text
    assert '| c | a |  |  |' in text


def test_an_answer_is_yes_from_three_standard_errors_on(tables):
    far, near = [4.0, 5.0, 4.5, 5.5, 4.0], [1.0, -1.0, 2.0, 0.0, 0.5]

    def said(values):
        spread = tables.statistics.stdev(values) / len(values) ** 0.5
        return tables.verdict(values, spread)

    assert said(far) == '**yes**' and said([-v for v in far]) == '**no, it costs**'
    assert said(near) == 'no difference seen' and said(far[:4]) == 'too few seeds'
    assert said([3.0, 1.0, 0.0, 2.0, 3.0, 0.2]) == 'a hint'


def test_an_answer_is_paired_and_blank_where_nothing_was_run(tables, tmp_path):
    asked = json.loads(tables.QUESTIONS.read_text())
    rows = [
        dict(asked[0].get('where', {}), method=method, seed=seed, mAP=value)
        for seed in range(5)
        for method, value in ((asked[0]['method'], 3.0 + seed), (asked[0]['beside'], 1))
    ]
    (tmp_path / f'{asked[0]["file"]}.json').write_text(json.dumps(rows))
    _, lines = tables.answers(tmp_path)
    assert lines[0][2:] == ['5', '+4.00 ± 0.71', '**yes**']
    assert all(line[2:] == ['', '', ''] for line in lines if line[0] != lines[0][0])
