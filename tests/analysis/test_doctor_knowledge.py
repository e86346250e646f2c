"""What the doctor says of classes and of ground truth."""

from types import SimpleNamespace

import pytest
from torch import nn

from kd_mm.analysis.doctor import knowledge


def network(classes):
    model = nn.Module()
    model.head = nn.Module()
    model.head.num_classes = classes
    return model


@pytest.mark.parametrize(
    ('meta', 'verdict'),
    [
        (dict(stuff_classes=tuple(range(80, 133))), 'fine'),  # in a head of their own
        (dict(), 'wrong'),
    ],
)
def test_the_stuff_of_a_panoptic_data_set_is_no_class_of_the_head(meta, verdict):
    metainfo = dict(classes=tuple(range(133)), thing_classes=tuple(range(80)), **meta)
    dataset = SimpleNamespace(metainfo=metainfo)
    patient = SimpleNamespace(
        runner=SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset)),
        model=network(80),
        teacher=network(80),
        cfg=SimpleNamespace(model=SimpleNamespace(teacher=None)),
    )
    (found,) = knowledge.classes(patient)
    assert found.verdict == verdict
    assert found.text == 'data set 133, student 80, teacher 80'
