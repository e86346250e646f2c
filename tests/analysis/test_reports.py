"""The page says what the runs say, and needs nothing but itself."""

import json
import math
import re
import runpy
import sys
from html.parser import HTMLParser

import pytest
from conftest import ROOT

from kd_mm.analysis.reports import page, read_metrics, read_run
from kd_mm.analysis.reports.verdict import Difference, likeliest, paired, verdict
from kd_mm.errors import ConfigError

METRIC = 'accuracy/top1'


def write_run(folder, *, seed=0, distilled=False, last=90.0, share=0.5, loss=1.0):
    """What MMEngine leaves of a short training."""
    vis = folder / '20260101_000000' / 'vis_data'
    vis.mkdir(parents=True)
    kind = 'kd_mm.Distill' if distilled else 'ImageClassifier'
    config = f'model = dict(type={kind!r})\nrandomness = dict(seed={seed})\n'
    (vis / 'config.py').write_text(config)
    rows = []
    for epoch in range(1, 9):
        row = dict(step=10 * epoch, loss=3.0 / epoch, time=0.1, memory=100)
        if distilled:
            row |= dict(loss_kd_map=loss / epoch, kd_map_gradient_share=share)
        rows.append(row)
        value = last - 20 / epoch + 2.5
        rows.append({METRIC: value, 'step': epoch, 'time': 0.2, 'data_time': 0.1})
    rows[-1][METRIC] = last
    (vis / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def seeds(tmp_path):
    """Three seeds alone, three distilled that are a point better."""
    runs = []
    for seed in range(3):
        alone = write_run(tmp_path / f'a{seed}', seed=seed, last=90 + seed)
        kd = write_run(
            tmp_path / f'd{seed}',
            seed=seed,
            last=91 + seed + 0.1 * seed,
            distilled=True,
        )
        runs += [read_run(f'alone={alone}'), read_run(f'SoKD={kd}')]
    return runs


class Reader(HTMLParser):
    """Collects what a page refers to, and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.links, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ('src', 'href', 'xlink:href')]
        if tag in ('table', 'figure', 'div', 'svg', 'ul'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ('table', 'figure', 'div', 'svg', 'ul'):
            assert self.open.pop() == tag


def test_differences_are_paired_by_seed(seeds):
    (found,) = paired(seeds, METRIC)
    assert found.gains == pytest.approx([1.0, 1.1, 1.2])
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert str(found) == '+1.1 ± 0.058 (3 seeds)'


def test_the_page_stands_alone_and_shows_everything(seeds, tmp_path):
    drawn = tmp_path / 'd0/20260101_000000/vis_data/vis_image/areas.png'
    drawn.parent.mkdir()
    drawn.write_bytes(b'\x89PNG')
    html = page(seeds, title='A & B', teacher={METRIC: 95.0})
    reader = Reader(html)
    assert not reader.open
    assert all(link.startswith(('#', 'data:')) for link in reader.links)
    assert not re.search(r'url\((?!#)', html)  # only into itself
    for text in ('A &amp; B', 'a gain', '91 ± 1', '+1.1 ± 0.058', '<svg', 'areas'):
        assert text in html
    for title in (METRIC, 'task loss', 'loss_kd_map', 'kd_map_gradient_share'):
        assert f'<figcaption>{title}</figcaption>' in html


def test_pictures_of_one_name_are_all_shown(seeds, tmp_path):
    for name in ('d0', 'd1'):
        drawn = tmp_path / name / '20260101_000000/vis_data/vis_image/areas_1.png'
        drawn.parent.mkdir()
        drawn.write_bytes(b'\x89PNG')
    given = [tmp_path / name / 'areas.png' for name in ('d0', 'd1')]
    for path in given:
        path.write_bytes(b'\x89PNG')
    html = page(seeds, more=given)
    assert html.count('<img') == 4
    for name in ('d0', 'd1'):
        assert f'<figcaption>{tmp_path / name}: areas_1</figcaption>' in html
        assert f'<figcaption>{tmp_path / name}/areas</figcaption>' in html


def difference(*gains):
    return Difference('d0', list(gains))


@pytest.mark.parametrize(
    ('gains', 'options', 'teacher', 'says'),
    [
        ((1.0, 1.1, 0.9), {}, 95.0, 'a gain'),
        ((1.0, -1.1, 0.2), {}, 95.0, 'no gain that these seeds can show'),
        ((-1.0, -1.1, -0.9), {}, 95.0, 'worse than the student alone'),
        ((1.0,), {}, 95.0, 'one seed'),
        ((), {}, 95.0, 'nothing to compare with'),
        ((0.1, -0.1), {}, 80.0, 'the teacher is not better'),
        ((0.1, -0.1), dict(share=0.99), 95.0, 'drowns'),
        ((0.1, -0.1), dict(share=0.01), 95.0, 'next to nothing'),
        ((0.1, -0.1), dict(loss=0.0), 95.0, 'did not fall'),
    ],
)
def test_the_verdict_and_its_likeliest_reason(tmp_path, gains, options, teacher, says):
    alone = read_run(str(write_run(tmp_path / 'a0')))
    own = read_run(str(write_run(tmp_path / 'd0', distilled=True, **options)))
    assert says in verdict(difference(*gains), [alone, own], METRIC, teacher)


def test_of_an_error_more_is_no_gain(tmp_path):
    alone = write_run(tmp_path / 'a0')
    own = write_run(tmp_path / 'd0', distilled=True)
    runs = [read_run(str(folder)) for folder in (alone, own)]
    said = verdict(difference(2.0, 2.1, 1.9), runs, 'regression/mae', 95.0)
    assert 'depends on the metric' in said and 'a gain,' not in said


def test_a_warning_in_the_log_is_the_likeliest_reason(tmp_path):
    folder = write_run(tmp_path / 'd0', distilled=True)
    (folder / '20260101_000000' / 'x.log').write_text(
        'a - mmengine - INFO - kd_mm: the teacher on the validation set: '
        'accuracy/top1 93.5000\n'
        'a - mmengine - WARNING - kd_mm: links.map: its loss has not fallen\n'
    )
    own = read_run(str(folder))
    assert own.teacher == {METRIC: 93.5}
    alone = read_run(str(write_run(tmp_path / 'a0')))
    text = verdict(difference(0.1, -0.1), [alone, own], METRIC, 93.5)
    assert 'from the log: links.map: its loss has not fallen' in text


def test_a_resumed_run_is_one_course(tmp_path):
    folder = write_run(tmp_path / 'a')
    later = folder / '20260102_000000' / 'vis_data'
    later.mkdir(parents=True)
    (later / 'config.py').write_text('randomness = dict(seed=0)')
    (later / 'scalars.json').write_text(json.dumps(dict(step=80, loss=0.1)))
    xs, ys = read_run(str(folder)).task_loss()
    assert xs == [float(10 * i) for i in range(1, 9)] and ys[-1] == 0.1


def test_half_a_line_that_a_killed_run_left_is_skipped(tmp_path):
    folder = write_run(tmp_path / 'a', last=93.0)
    log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.write_text(log.read_text() + '\n{"accuracy/top1": 9')
    assert read_run(str(folder)).last(METRIC) == 93
    tested = tmp_path / 't' / '2026' / '2026.json'
    tested.parent.mkdir(parents=True)
    tested.write_text(json.dumps({METRIC: 94.0}) + '\n{"accuracy')
    assert read_metrics(str(tmp_path / 't')) == {METRIC: 94.0}


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path):
    folder = write_run(tmp_path / 'lr=0.01')
    assert read_run(str(folder)).name == 'lr=0.01'
    assert read_run(f'slow={folder}').name == 'slow'


def test_runs_without_seeds_are_compared_by_their_means(tmp_path):
    def read(name, kind, values):
        for i, value in enumerate(values):
            folder = write_run(
                tmp_path / f'{name}{i}', seed=None, last=value, distilled=kind
            )
            yield read_run(f'{name}={folder}')

    runs = [*read('alone', False, (0.9, 0.85, 0.8)), *read('KD', True, (0.851, 0.852))]
    (found,) = paired(runs, METRIC)
    assert found.mean == pytest.approx(0.0015) and '2 and 3 runs' in str(found)
    assert found.error == pytest.approx(math.sqrt(0.0025 / 3 + 0.001**2 / 4), rel=1e-3)
    assert 'no gain that these seeds can show' in verdict(found, runs, METRIC, 1.0)


def test_a_rounded_tie_of_two_seeds_is_no_gain(tmp_path):
    runs = []
    for seed, value in enumerate((0.301, 0.305)):
        alone = write_run(tmp_path / f'a{seed}', seed=seed, last=value)
        own = write_run(
            tmp_path / f'd{seed}', seed=seed, last=value + 0.001, distilled=True
        )
        runs += [read_run(f'alone={alone}'), read_run(f'KD={own}')]
    (found,) = paired(runs, METRIC)
    assert found.error > 1e-4
    assert 'no gain that these seeds can show' in verdict(found, runs, METRIC, 1.0)


def test_a_new_run_in_the_folder_of_an_old_one_begins_anew(tmp_path):
    folder = write_run(tmp_path / 'a', last=90)
    later = folder / '20260102_000000' / 'vis_data'
    later.mkdir(parents=True)
    (later / 'config.py').write_text('randomness = dict(seed=0)\nresume = False')
    rows = [dict(step=10, loss=0.5), {METRIC: 70.0, 'step': 1}]
    (later / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    tested = folder / '20260103_000000' / 'vis_data'  # what test leaves: a config
    tested.mkdir(parents=True)
    (tested / 'config.py').write_text("model = dict(type='kd_mm.Distill')")
    run = read_run(str(folder))
    assert run.last(METRIC) == 70 and len(run.steps) == 1 and not run.distilled


def test_a_notice_and_a_warm_up_are_no_reasons(tmp_path):
    folder = write_run(tmp_path / 'd0', distilled=True)
    (folder / '20260101_000000' / 'x.log').write_text(
        'a - mmengine - WARNING - kd_mm: the teacher has the weights of its config\n'
        "a - mmengine - WARNING - links.map: the student's own loss is 1.4 times\n"
    )
    own = read_run(str(folder))
    assert own.said == ["links.map: the student's own loss is 1.4 times"]
    own.said = []
    alone = read_run(str(write_run(tmp_path / 'a0')))
    for row, loss in zip(own.steps, (1, 5, 4, 3, 2, 2, 1.5, 1.5), strict=True):
        row['loss_kd_map'] = loss
    text = verdict(difference(0.1, -0.1), [alone, own], METRIC, 95.0)
    assert 'did not fall' not in text


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match='no such folder'):
        read_run(str(tmp_path / 'nowhere'))
    with pytest.raises(ConfigError, match='no log'):
        read_run(str(tmp_path))
    run = read_run(str(write_run(tmp_path / 'a')))
    with pytest.raises(ConfigError, match='there are: accuracy/top1'):
        page([run], metric='mAP')


def test_a_picture_that_no_page_can_show_is_refused_in_one_line(
    tmp_path, monkeypatch, capsys
):
    write_run(tmp_path / 'alone')
    (tmp_path / 'figure.pdf').write_bytes(b'%PDF')
    monkeypatch.chdir(tmp_path)
    call = 'report alone --pictures figure.pdf'
    monkeypatch.setattr(sys, 'argv', call.split())
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / 'tools/report.py'))['main']()
    (last,) = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and 'figure.pdf cannot be shown' in last
    assert last.endswith('png, jpg, jpeg, svg')


def test_the_tool_writes_one_file(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / 'alone')
    write_run(tmp_path / 'kd', distilled=True, last=91)
    tested = tmp_path / 'teacher' / '2026' / '2026.json'
    tested.parent.mkdir(parents=True)
    tested.write_text(json.dumps({METRIC: 94.0}))
    assert read_metrics(str(tmp_path / 'teacher')) == {METRIC: 94.0}
    monkeypatch.chdir(tmp_path)
    call = 'report alone distilled=kd --teacher teacher --out page.html'
    monkeypatch.setattr(sys, 'argv', call.split())
    assert not runpy.run_path(str(ROOT / 'tools/report.py'))['main']()
    html = (tmp_path / 'page.html').read_text()
    assert 'better than the student alone by +1' in html and '94' in html
    assert 'open it in a browser' in capsys.readouterr().out


def test_runs_of_other_lengths_are_not_compared(tmp_path):
    alone = read_run(str(write_run(tmp_path / 'a0')))
    own = read_run(str(write_run(tmp_path / 'd0', distilled=True)))
    own.steps = own.steps[:4]
    text = verdict(difference(1.0, 1.1, 0.9), [alone, own], METRIC, 95.0)
    assert 'to step 40, the student alone to 80' in text and 'nothing yet' in text


def test_the_training_of_the_teacher_is_shown_and_is_not_the_student_alone(
    seeds, tmp_path
):
    folder = write_run(tmp_path / 't0', last=99)
    teacher = read_run(f'big={folder}')
    teacher.steps = teacher.steps[:4]
    runs = [*seeds, teacher]
    (found,) = paired(runs, METRIC)
    assert found.gains == pytest.approx([1.0, 1.1, 1.2])
    html = page(runs)
    assert 'a gain' in html and '<td>big</td>' in html
    assert 'The student alone: alone, the first' in html and 'nothing: big.' in html
    assert 'the teacher is not better' not in likeliest('SoKD', runs, METRIC, 92.0)


def test_plain_runs_without_a_name_are_the_student_alone_together(tmp_path):
    folders = [str(write_run(tmp_path / f'a{i}', seed=i)) for i in range(2)]
    folders += [
        str(write_run(tmp_path / f'd{i}', seed=i, distilled=True)) for i in range(2)
    ]
    runs = [
        read_run(text) for text in (*folders[:2], *(f'KD={f}' for f in folders[2:]))
    ]
    assert paired(runs, METRIC)[0].gains == [0, 0]
    assert 'the first that' not in page(runs)


def test_columns_and_cells_that_nothing_is_known_of(tmp_path):
    alone = read_run(str(write_run(tmp_path / 'a0')))
    own = read_run(str(write_run(tmp_path / 'd0', distilled=True)))
    own.values = []  # interrupted before its first validation
    for row in (*alone.steps, *own.steps):
        row.pop('memory')  # a CPU
    html = page([alone, own])
    assert 'not reached' in html and '<th>MB</th>' not in html and '>nan<' not in html
