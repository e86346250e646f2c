"""Two-stage detectors: both pyramids through the teacher's box head."""

import pytest
import torch
import toys
from helpers import build, detection_batch, distill_cfg, losses_of, train_steps
from mmdet.structures.bbox import bbox2roi

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair


def link(**options) -> dict:
    return dict(
        roi=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type='kd_mm.TeacherRoIs', proposals=8, **options)],
            criterion=dict(
                type='kd_mm.HeadLoss',
                classes=dict(type='kd_mm.QFLLoss'),
                boxes=dict(type='kd_mm.BoxL1Loss', weight=0.25),
            ),
        )
    )


def cascade():
    """Two stages with boxes of all classes in one."""
    model = toys.faster_rcnn()
    head, roi = model.roi_head.bbox_head, model.roi_head
    head.reg_class_agnostic = True
    roi.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5])
    roi.bbox_head = [head, head]
    model.type = 'mmdet.CascadeRCNN'
    model.train_cfg.rcnn = [model.train_cfg.rcnn] * 2
    return model


@pytest.mark.parametrize('kind', ['faster_rcnn', 'mask_rcnn', 'cascade'])
def test_the_students_own_heads_get_no_gradient_of_it(kind):
    net = cascade() if kind == 'cascade' else getattr(toys, kind)()
    where = {}
    if kind == 'cascade':
        paths = dict(extractor='bbox_roi_extractor', head='bbox_head')
        where = {key: f'roi_head.{path}.0' for key, path in paths.items()}
    model = build(distill_cfg(net, net, link(**where)))
    losses = losses_of(model, detection_batch())
    assert losses['loss_kd_roi'] > 0 and 0 < losses['kd_roi_regions'] <= 8
    losses['loss_kd_roi'].backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    assert touched and not any(n.startswith(('rpn_head', 'roi_head')) for n in touched)
    assert not any(k.startswith('distiller.') for k in model.state_dict())
    if kind == 'faster_rcnn':
        logs = train_steps(model, detection_batch(), 2)
        assert all('loss_kd_roi' in log for log in logs)


def test_both_sides_are_what_the_teachers_head_says_of_its_proposals():
    net = toys.faster_rcnn()
    model = build(distill_cfg(net, net, link()))
    teacher = model.distiller.teacher.model
    stage = model.distiller.links['roi'].stages[0]
    data = model.data_preprocessor(detection_batch(), True)
    with torch.no_grad():
        theirs = teacher.extract_feat(data['inputs'])
        mine = [x + 0.1 * torch.randn_like(x) for x in theirs]
        proposals = teacher.rpn_head.predict(theirs, data['data_samples'])
        rois = bbox2roi([p.bboxes[:8] for p in proposals])
        said = [teacher.roi_head._bbox_forward(x, rois) for x in (tuple(mine), theirs)]
    pair = FeaturePair(
        link='x',
        student=list(mine),
        teacher=list(theirs),
        samples=data['data_samples'],
        image_size=(128, 128),
    )
    with torch.no_grad():
        out = stage(pair)
    best = said[1]['cls_score'][:, :-1].argmax(1)
    for side, expected in zip((out.student, out.teacher), said):
        scores = expected['cls_score'].softmax(1)[:, :-1]
        torch.testing.assert_close(side[0][0, :, :, 0].t().sigmoid(), scores)
        deltas = expected['bbox_pred'].reshape(len(rois), -1, 4)
        picked = deltas[torch.arange(len(rois)), best]
        torch.testing.assert_close(side[1][0, :, :, 0].t(), picked)
    own = link()['roi']['criterion']
    criterion = model.distiller.links['roi'].criterion
    assert own['type'].endswith(type(criterion).__name__)
    out.student = out.teacher
    assert float(criterion(out)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ('options', 'kwargs', 'says'),
    [
        (dict(rpn='rpn'), {}, "rpn: the teacher FasterRCNN has no module 'rpn'"),
        (dict(rpn='neck'), {}, 'FPN makes no proposals'),
        ({}, dict(dtype='bf16'), 'need a teacher in fp32'),
    ],
)
def test_what_is_missing_is_named(options, kwargs, says):
    net = toys.faster_rcnn()
    with pytest.raises(ConfigError, match=says):
        build(distill_cfg(net, net, link(**options), teacher_kwargs=kwargs))


def test_channels_in_another_order_are_not_read_by_the_teachers_head():
    net, links = toys.faster_rcnn(), link()
    links['roi']['stages'].insert(0, dict(type='kd_mm.ChannelAlign'))
    with pytest.raises(ConfigError, match='ChannelAlign stands before it and moves'):
        build(distill_cfg(net, net, links))
