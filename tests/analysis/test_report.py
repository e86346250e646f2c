"""The channel report: numbers, table, JSON, figures, and the tool's errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from helpers import blotchy_batches, build, classification_batch, distill_cfg
from rich.console import Console

from kd_mm.analysis.figures import draw, membership
from kd_mm.analysis.report import measure, print_tables, write_json
from kd_mm.errors import ConfigError
from kd_mm.stages.kcd import fit_channels

ROOT = Path(__file__).resolve().parents[2]


def links(stages=()) -> dict:
    criterion = dict(type='kd_mm.MSELoss')
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1],
            stages=list(stages),
            criterion=criterion,
        )
    )


@pytest.fixture(scope='module')
def planted():
    """A student, itself with permuted FPN channels as the teacher, and the report."""
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links())
    model = build(cfg)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    teacher = model.distiller.teacher.model
    teacher.load_state_dict(model.state_dict(), strict=False)
    for conv in teacher.neck.fpn_convs:
        conv.conv.weight.data = conv.conv.weight.data[order]
        conv.conv.bias.data = conv.conv.bias.data[order]
    return measure(model, blotchy_batches(8), k=4)


def test_a_planted_permutation_is_mended(planted):
    for report in planted:
        before, after = (report.transforms[n] for n in ('identity', 'bipartite'))
        assert after['overlap'] == after['selective'] == 1 and after[
            'correlation'
        ] == pytest.approx(1)
        assert before['overlap'] < 0.8 and before['correlation'] < 0.8
        assert report.chance == 0.25
        assert report.cka == pytest.approx(1)  # a permutation cannot change it
        assert before['cka'] == pytest.approx(after['cka'])


def test_table_json_and_figures_are_written(planted, tmp_path):
    console = Console(record=True, width=120)
    print_tables(planted, 4, console)
    text = console.export_text()
    assert 'bipartite' in text and 'by chance' in text and '16 <- 16' in text
    write_json(planted, tmp_path / 'channels.json', config='a.py')
    content = json.loads((tmp_path / 'channels.json').read_text())
    assert content['config'] == 'a.py' and len(content['levels']) == 2
    assert content['levels'][0]['transforms']['bipartite']['overlap'] == 1
    files = draw(planted, tmp_path, k=4, class_names='abcd')
    assert len(files) == 5 and all(path.stat().st_size > 5000 for path in files)


def test_who_picks_a_channel():
    student = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    teacher = torch.tensor([[3.0, 0.0, 2.0, 1.0]])
    assert membership(student, teacher, 2).tolist() == [[3, 1, 2, 0]]


@pytest.mark.parametrize('base', [4, 16])
def test_unequal_widths_and_classifiers_are_reported(base, tmp_path):
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=base))
    cfg['links'] = links([dict(type='kd_mm.ConvAdapter')])
    cfg['links']['fpn'].update(student='backbone', teacher='backbone')
    model = build(cfg)
    data = [classification_batch(8) for _ in range(4)]
    for i, batch in enumerate(data):
        batch['inputs'] = [image // (i + 1) for image in batch['inputs']]
    reports = measure(model, data)
    assert ('grouped' in reports[0].transforms) == (base == 16)
    assert reports[0].transforms['bipartite']['overlap'] is not None
    draw(reports, tmp_path, k=10)


def test_the_map_of_a_checkpoint_has_its_own_row():
    align = dict(type='kd_mm.ChannelAlign', transform='random')
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links([align]))
    model = build(cfg)
    assert 'checkpoint' not in measure(model, blotchy_batches(2))[0].transforms
    fit_channels(model, [model.distiller.links.fpn.stages[0]], blotchy_batches(2))
    found = measure(model, blotchy_batches(2))[0].transforms
    assert found['checkpoint'] == found['random']


def test_one_batch_is_not_enough_and_no_boxes_give_no_overlap():
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), links()))
    with pytest.raises(ConfigError, match='two batches'):
        measure(model, blotchy_batches(1))
    data = blotchy_batches(4)
    for batch in data:
        for sample in batch['data_samples']:
            del sample.gt_instances
    (first, _) = measure(model, data)
    assert first.transforms['bipartite']['overlap'] is None
    print_tables([first], 10, Console(quiet=True))
    with pytest.raises(ConfigError, match='ground truth'):
        measure(model, data, similarity='class')


def test_a_plain_config_is_one_line_of_error():
    path = ROOT / 'configs/kd/coco_s320/yolox_femto_coco_s320.py'
    done = subprocess.run(
        [sys.executable, 'tools/analyse_channels.py', str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'does not distil' in done.stderr.strip().splitlines()[-1]
