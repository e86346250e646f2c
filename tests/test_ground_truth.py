"""Links that read ground truth their data will not have are refused when built."""

import pytest
import toys
from helpers import build, distill_cfg
from mmengine.registry import MODELS

from kd_mm.criteria.crd import indices_of
from kd_mm.errors import ConfigError
from kd_mm.stages import Stage
from kd_mm.trial import trial_samples


@MODELS.register_module()
class ToLogits(Stage):
    """Pools maps."""

    def forward(self, pair):
        pair.student = [f.mean((2, 3)) for f in pair.student]
        pair.teacher = [f.mean((2, 3)) for f in pair.teacher]
        return pair


def classifier_with(criterion: str, *stages) -> dict:
    link = dict(
        student='backbone[0]',
        teacher='backbone[0]',
        stages=list(stages),
        criterion=dict(type=criterion),
    )
    return distill_cfg(toys.classifier(), toys.classifier(), dict(x=link))


@pytest.mark.parametrize(
    ('cfg', 'where'),
    [
        (classifier_with('kd_mm.FGDLoss'), 'criterion'),
        (
            classifier_with('kd_mm.MSELoss', dict(type='kd_mm.DAM', supervision='gt')),
            r'stages\[0\] DAM',
        ),
    ],
    ids=['FGD', 'DAM'],
)
def test_boxes_of_a_classifier(cfg, where):
    message = rf'links\.x[.:] ?{where}.*it is for detectors'
    with pytest.raises(ConfigError, match=message):
        build(cfg)


def test_areas_without_supervision_need_no_boxes():
    build(classifier_with('kd_mm.MSELoss', dict(type='kd_mm.DAM')))


def test_classes_of_a_detectors_images():
    link = dict(
        student='neck',
        teacher='neck',
        levels=[0],
        stages=[dict(type='mmengine.ToLogits')],
        criterion=dict(type='kd_mm.DKDLoss'),
    )
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), dict(x=link))
    with pytest.raises(
        ConfigError, match=r'links\.x[.:] ?criterion.*it is for classifiers'
    ):
        build(cfg)


def test_a_fold_is_told_that_it_counts_as_the_whole_set():
    samples = trial_samples(2, (8, 8))
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_idx=40 + i))
    assert indices_of(samples, 42) == [40, 41]
    with pytest.raises(ConfigError, match='images=41.*image 41.*fold.*whole'):
        indices_of(samples, 41)
