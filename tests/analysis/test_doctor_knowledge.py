"""What the doctor says of classes and of ground truth."""

from types import SimpleNamespace

import pytest
from mmpretrain.structures import DataSample, MultiTaskDataSample
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


def several(**tasks):
    """A sample of several tasks, by their samples."""
    sample = MultiTaskDataSample()
    for name, part in tasks.items():
        sample.set_field(part, name)
    return sample


def labelled(label):
    return DataSample().set_gt_label(label)


@pytest.mark.parametrize(
    ('samples', 'verdict', 'says'),
    [
        ([several(a=labelled(2), b=labelled(7)), several(b=labelled(1))], 'fine', '2'),
        ([several(a=several(b=labelled(7))), several()], 'fine', '1'),
        ([several(a=DataSample()), several()], 'wrong', 'none'),
    ],
)
def test_labels_of_several_tasks_are_found(samples, verdict, says):
    batch = dict(data_samples=samples)
    patient = SimpleNamespace(batches=[batch], model=network(3), teacher_known=False)
    (found,) = knowledge.truth(patient)
    assert found.verdict == verdict and found.text.startswith(f'{says} of 2 ')
