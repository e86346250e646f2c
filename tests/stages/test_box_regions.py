"""LD's regions: ATSS's own positions, and those around them."""

import pytest
import torch
import toys
from helpers import build, detection_batch, distill_cfg, losses_of
from mmdet.models.task_modules import AnchorGenerator, ATSSAssigner
from mmdet.structures.bbox import bbox_overlaps
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torchvision.ops import distance_box_iou

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import BoxRegions
from kd_mm.utils import regions
from kd_mm.utils.regions import box_regions, square_anchors

IMAGE, SIZES = (128, 160), [(16, 20), (8, 10), (4, 5)]


def boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * torch.tensor([90.0, 70.0])
    return torch.cat([corner, corner + 10 + 50 * torch.rand(count, 2)], 1)


@pytest.fixture(scope='module')
def anchors():
    made = AnchorGenerator(
        strides=[8, 16, 32], ratios=[1.0], octave_base_scale=8, scales_per_octave=1
    ).grid_priors(SIZES, device='cpu')
    ours = square_anchors(SIZES, IMAGE, scale=8.0)
    torch.testing.assert_close(ours, torch.cat(made))
    return ours


@pytest.mark.parametrize('image', [(800, 1088), (800, 1344), (1024, 1152), (427, 640)])
def test_anchors_are_mmdetections_where_no_stride_divides_the_image(image):
    strides = [8, 16, 32, 64, 128]
    padded = tuple(-(-n // 32) * 32 for n in image)
    sizes = [tuple(-(-n // s) for n in padded) for s in strides]
    made = AnchorGenerator(
        strides=strides, ratios=[1.0], octave_base_scale=8, scales_per_octave=1
    ).grid_priors(sizes, device='cpu')
    torch.testing.assert_close(
        square_anchors(sizes, padded, scale=8.0), torch.cat(made)
    )


def test_the_main_region_is_what_mmdetections_atss_assigns(anchors):
    torch.manual_seed(1)
    counts = [h * w for h, w in SIZES]
    images = [boxes(3), boxes(1), boxes(0)]
    padded = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)
    main, near = box_regions(padded, anchors, counts)
    for image, truth in enumerate(images[:2]):
        with DefaultScope.overwrite_default_scope('mmdet'):
            assigner = ATSSAssigner(topk=9)
        found = assigner.assign(
            InstanceData(priors=anchors),
            counts,
            InstanceData(bboxes=truth, labels=torch.zeros(len(truth)).long()),
        )
        assert torch.equal(main[image] > 0, found.gt_inds > 0)
        assert 0 < main[image].sum() < 60
    assert main[2].sum() == near[2].sum() == 0


def test_the_valuable_region_is_the_papers(anchors):
    """Algorithm 1 box by box: DIoU between a quarter of ATSS's threshold and it."""
    torch.manual_seed(2)
    counts, truth = [h * w for h, w in SIZES], boxes(4)
    _, near = box_regions(truth[None], anchors, counts)
    expected = torch.zeros(len(anchors))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    for box in truth:
        iou = bbox_overlaps(anchors, box[None])[:, 0]
        diou = distance_box_iou(anchors, box[None])[:, 0]
        away = (centres - (box[:2] + box[2:]) / 2).norm(dim=1)
        near_ones = torch.cat([
            iou[first : first + n][away[first : first + n].argsort()[:9]]
            for first, n in zip((0, counts[0], sum(counts[:2])), counts)
        ])  # fmt: skip
        t = near_ones.mean() + near_ones.std()
        inside = (diou >= 0.25 * t) & (diou < t)
        expected = torch.maximum(expected, iou * inside)
    torch.testing.assert_close(near[0], expected)
    assert 20 < (near > 0).sum() < 200


def test_many_boxes_are_looked_at_a_few_at_a_time(anchors, monkeypatch):
    counts = [h * w for h, w in SIZES]
    many = torch.stack([boxes(30), boxes(30)])
    whole = box_regions(many, anchors, counts)
    monkeypatch.setattr(regions, 'CHUNK', 7)
    for got, expected in zip(box_regions(many, anchors, counts), whole, strict=True):
        assert torch.equal(got, expected)


def test_a_link_of_ld_learns_from_both_regions_and_from_nothing_else():
    link = dict(
        student='bbox_head[1]',
        teacher='bbox_head[1]',
        stages=[dict(type='kd_mm.BoxRegions')],
        criterion=dict(type='kd_mm.LDLoss'),
    )
    net = toys.gfl()
    model = build(distill_cfg(net, net, dict(boxes=link)))
    batch = detection_batch()
    log = losses_of(model, batch)
    assert log['loss_kd_boxes'] > 0
    assert log['kd_boxes_valuable_positions'] > log['kd_boxes_main_positions'] > 0
    stage = model.distiller.links['boxes'].stages[0]
    data = model.data_preprocessor(batch, True)
    maps = [torch.randn(2, 36, s, s) for s in (16, 8, 4, 2, 1)]
    pair = stage(
        FeaturePair(
            link='x',
            student=maps,
            teacher=maps,
            samples=data['data_samples'],
            image_size=(128, 128),
            weight=[torch.full((2, 1, s, s), 0.5) for s in (16, 8, 4, 2, 1)],
        )
    )
    assert [w.shape for w in pair.weight] == [(2, 1, s, s) for s in (16, 8, 4, 2, 1)]
    whole = torch.cat([w.flatten() for w in pair.weight])
    assert whole.max() <= 0.5 * 1.25 and (whole == 0).sum() > 0


def test_what_is_no_detector_is_refused():
    pair = FeaturePair(
        link='x',
        student=[torch.zeros(1, 4, 2, 2)],
        teacher=[torch.zeros(1, 4, 2, 2)],
        samples=[InstanceData()],
        image_size=(16, 16),
    )
    with pytest.raises(ConfigError, match='needs the boxes of the ground truth'):
        BoxRegions()(pair)
