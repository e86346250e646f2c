"""Boxes lie where the network's cells are, also where no stride divides the image."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from kd_mm.utils.boxes import boxes_in_cells
from kd_mm.utils.strides import cell_size


@pytest.mark.parametrize(
    ('image', 'size', 'cell'),
    [
        ((800, 1344), (100, 168), (8, 8)),
        ((800, 1344), (13, 21), (64, 64)),
        ((800, 1344), (7, 11), (128, 128)),
        ((160, 160), (2, 2), (128, 128)),
        ((128, 160), (4, 5), (32, 32)),
        ((96, 96), (64, 48), (1.5, 2.0)),  # resized
        ((96, 96), (192, 192), (0.5, 0.5)),
    ],
)
def test_a_cell_is_as_large_as_the_stride(image, size, cell):
    assert cell_size(size, image) == cell
    sample = DetDataSample()
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    sample.gt_instances = InstanceData(bboxes=box, labels=torch.zeros(1).long())
    found, _ = boxes_in_cells([sample], image, size, torch.device('cpu'))
    tall, wide = cell
    wanted = box / torch.tensor([wide, tall, wide, tall])
    torch.testing.assert_close(found[0], wanted)
