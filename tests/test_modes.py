"""What a head multiplies by in one mode only is told before training."""

import pytest
import toys
from helpers import build, distill_cfg
from mmengine.logging import MMLogger


@pytest.mark.parametrize(
    ('normalised', 'tap', 'told'),
    [(True, 'bbox_head[1]', True), (True, 'bbox_head[0]', False),
     (False, 'bbox_head[1]', False), (True, 'bbox_head.conv_reg', False)],
)  # fmt: skip
def test_a_head_that_scales_in_prediction_only_is_told(
    monkeypatch, normalised, tap, told
):
    said: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', said.append)
    net = toys.fcos()
    net.bbox_head.norm_on_bbox = normalised
    link = dict(student=tap, teacher=tap, criterion=dict(type='kd_mm.MSELoss'))
    build(distill_cfg(net, net, dict(boxes=link)))
    lines = [line for line in said if 'something else in training' in line]
    assert len(lines) == told
    assert not told or (tap in lines[0] and 'a factor of 0.' in lines[0])
