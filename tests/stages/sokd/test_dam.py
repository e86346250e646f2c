"""DAM: areas, masks, and what confines what."""

import logging
import math

import pytest
import torch
import toys
from dam_toys import make_pair, random_areas, ready
from helpers import blotchy_batches, build, detection_batch, distill_cfg, train_steps

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import DAM
from kd_mm.stages.sokd import dam as dam_module
from kd_mm.stages.sokd.areas import area_mask, find_areas, highest_nearby, spread


def naive_areas(areas, top_k):
    """One image, map, row and column at a time."""
    n, kinds, height, width = areas.heat.shape
    out = []
    for image in range(n):
        peaks = []
        for kind in range(kinds):
            for i in range(height):
                for j in range(width):
                    value = areas.heat[image, kind, i, j]
                    near = areas.heat[
                        image, kind, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2
                    ]
                    if value == near.max():
                        peaks.append((float(value), i, j))
        boxes = []
        for _, i, j in sorted(peaks, reverse=True)[:top_k]:
            w, h = areas.size[image, :, i, j].tolist()
            dx, dy = areas.offset[image, :, i, j].tolist()
            x, y = j + dx, i + dy
            boxes.append(
                [
                    min(max(x - w / 2, 0), width),
                    min(max(y - h / 2, 0), height),
                    min(max(x + w / 2, 0), width),
                    min(max(y + h / 2, 0), height),
                ]
            )
        out.append(boxes)
    return out


def naive_mask(boxes, height, width, overlap, normalise):
    mask = torch.zeros(height, width)
    for x1, y1, x2, y2 in boxes:
        left, top = min(math.floor(x1), width - 1), min(math.floor(y1), height - 1)
        right, bottom = max(math.ceil(x2), left + 1), max(math.ceil(y2), top + 1)
        mask[top:bottom, left:right] += 1
    if overlap == 'max':
        mask = (mask > 0).float()
    return mask / mask.mean() if normalise == 'area' else mask


@pytest.mark.parametrize('size', [(7, 5), (1, 6), (4, 1), (1, 1)])
def test_peaks_and_spread_equal_those_of_torch(size):
    heat = torch.rand(3, 4, *size)
    pooled = torch.nn.functional.max_pool2d(heat, 3, stride=1, padding=1)
    assert highest_nearby(heat).equal(pooled)
    std = heat.std((0, 2, 3), correction=0).max()
    torch.testing.assert_close(spread(heat), std)
    assert spread(torch.full_like(heat, 0.7)) < 1e-6


@pytest.mark.parametrize('top_k', [1, 8])
def test_areas_equal_those_of_a_loop(top_k):
    areas = random_areas()
    got = find_areas(areas, top_k)
    torch.testing.assert_close(got, torch.tensor(naive_areas(areas, top_k)))


@pytest.mark.parametrize('overlap', ['sum', 'max'])
@pytest.mark.parametrize('normalise', ['all', 'area'])
def test_masks_equal_those_of_a_loop(overlap, normalise):
    areas = random_areas()
    boxes = find_areas(areas, 8)
    got = area_mask(boxes, (9, 13), overlap=overlap, normalise=normalise)
    for image in range(3):
        expected = naive_mask(boxes[image].tolist(), 9, 13, overlap, normalise)
        torch.testing.assert_close(got[image, 0], expected)


def test_a_box_at_the_border_keeps_its_cell():
    # x1, y1, x2, y2: a point in the last corner, a point within, one over the edge
    boxes = torch.tensor([[[5.0, 4, 5, 4], [1.5, 1.5, 1.5, 1.5], [3.2, 0, 5, 1]]])
    mask = area_mask(boxes, (4, 5), overlap='sum', normalise='all')[0, 0]
    expected = torch.zeros(4, 5)
    expected[3, 4] = expected[1, 1] = 1
    expected[0, 3:] = 1
    assert torch.equal(mask, expected)


def test_no_areas_are_no_weight_and_no_nan():
    areas = random_areas()
    areas.heat.zero_()  # no peak is above 0
    boxes = find_areas(areas, 4)
    assert (boxes < 0).all()
    for normalise in ('all', 'area'):
        mask = area_mask(boxes, (9, 13), overlap='sum', normalise=normalise)
        assert (mask == 0).all()


def test_more_areas_than_positions_are_cut():
    areas = random_areas(kinds=2, height=1, width=2)
    boxes = find_areas(areas, 8)
    assert boxes.shape == (3, 4, 4)
    peaks = [len(image) for image in naive_areas(areas, 8)]
    assert (boxes[..., 0] >= 0).sum(1).tolist() == peaks


# ---- as a stage ---------------------------------------------------------------


@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_the_weight_map_comes_from_the_side_asked_for(side):
    pair = make_pair()
    stage = ready(pair, boxes_from=side, top_k=3)
    student, teacher = stage.predict(pair.student), stage.predict(pair.teacher)
    sides = dict(student=[student], teacher=[teacher], both=[student, teacher])[side]
    weight = stage(pair).weight
    for level, got in enumerate(weight):
        size = got.shape[2:]
        expected = sum(
            area_mask(find_areas(areas[level], 3), size, overlap='sum', normalise='all')
            for areas in sides
        )
        assert torch.equal(got, expected) and not got.requires_grad


def test_both_sides_go_through_the_same_heads():
    pair = make_pair()
    stage = ready(pair)
    pair.teacher = [feature.detach().clone() for feature in pair.student]
    assert float(stage(pair).losses['areas']) == 0.0


def test_relu_heads_keep_heat_above_one_half():
    pair = make_pair()
    free, bound = ready(pair), ready(pair, relu_heads=True)
    assert float(bound.predict(pair.teacher)[0].heat.min()) >= 0.5
    assert float(free.predict(pair.teacher)[0].heat.min()) < 0.5


def test_levels_of_one_width_share_their_heads():
    assert len(ready(make_pair()).heads) == 1
    pair = make_pair()
    pair.student[1], pair.teacher[1] = torch.randn(2, 2, 4, 5, 7)
    assert set(ready(pair).heads) == {'6', '4'}


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        ((2, 8), (2, 8), 'only DAFA'),
        ((2, 9, 8), (2, 9, 8), 'only DAFA'),
        ((2, 8, 4, 4), (2, 12, 4, 4), 'ConvAdapter'),
        ((2, 8, 4, 4), (2, 8, 8, 8), 'Resize'),
    ],
)
def test_what_has_no_common_areas_is_refused(student, teacher, message):
    pair = FeaturePair(
        link='x',
        student=[torch.randn(student)],
        teacher=[torch.randn(teacher)],
        samples=[],
        image_size=(8, 8),
    )
    with pytest.raises(ConfigError, match=message):
        DAM().setup(pair)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(boxes_from='anchors'),
        dict(overlap='mean'),
        dict(normalise='none'),
        dict(supervision='boxes'),
        dict(top_k=0),
        dict(heatmaps=0),
        dict(hidden=0),
        dict(weight=-1),
    ],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f'DAM.{next(iter(wrong))}'):
        DAM(**wrong)


def links(criterion='kd_mm.MSELoss', **dam) -> dict:
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type='kd_mm.DAM', **dam)],
            criterion=dict(type=criterion),
        )
    )


def test_a_detector_trains_and_logs_area_and_spread():
    model = build(
        distill_cfg(toys.retinanet(), toys.retinanet(), links(supervision='gt'))
    )
    logs = train_steps(model, blotchy_batches(1)[0], 4, lr=0.05)
    assert logs[-1]['loss_kd_fpn_area_boxes'] < logs[0]['loss_kd_fpn_area_boxes']
    assert 0 < logs[-1]['kd_fpn_area'] <= 1 and logs[-1]['kd_fpn_heat_spread'] > 0


def test_two_stages_that_weight_positions_are_refused():
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links())
    cfg['links']['fpn']['stages'] *= 2
    with pytest.raises(ConfigError, match='weighted the positions already'):
        build(cfg)


def test_logits_have_no_areas():
    link = dict(
        student='head',
        teacher='head',
        stages=[dict(type='kd_mm.DAM')],
        criterion=dict(type='kd_mm.KDLoss'),
    )
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), dict(logits=link))
    with pytest.raises(ConfigError, match='links.logits.*only DAFA'):
        build(cfg)


def test_heads_that_have_collapsed_are_reported(monkeypatch, caplog):
    monkeypatch.setattr(dam_module, 'PATIENCE', 2)
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), links()))
    stage = model.distiller.links['fpn'].stages[0]
    warnings = []
    logger = dam_module.MMLogger.get_current_instance()
    handler = logging.Handler()

    def keep(record):
        if 'links.fpn' in record.getMessage():
            warnings.append(record.getMessage())

    handler.emit = keep
    logger.addHandler(handler)
    try:
        train_steps(model, detection_batch(), 2, lr=0.0)
        stage.after_train_iter(None)
        assert warnings == []
        for heads in stage.heads.values():
            torch.nn.init.zeros_(heads.heads[0].weight)
        train_steps(model, detection_batch(), 2, lr=0.0)
        stage.after_train_iter(None)
    finally:
        logger.removeHandler(handler)
    assert len(warnings) == 1 and 'links.fpn: the heads of DAM' in warnings[0]
