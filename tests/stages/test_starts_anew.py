"""What a stage or criterion has measured of a teacher stays with its run.

A run that begins with the weights of another (``load_from``) may have another teacher.
"""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement

from kd_mm.criteria import CRDLoss
from kd_mm.pair import FeaturePair
from kd_mm.stages import DPK, MGD, OFD

N = 4


def pair(*shape: int) -> FeaturePair:
    samples = []
    for number in range(N):
        sample = BaseDataElement(metainfo=dict(sample_idx=number))
        sample.gt_label = torch.tensor([number % 2])
        samples.append(sample)
    return FeaturePair(
        link='x',
        student=[torch.randn(N, *shape).requires_grad_()],
        teacher=[torch.randn(N, *shape)],
        samples=samples,
        image_size=(64, 64),
    )


PARTS = {
    'OFD': (lambda: OFD(steps=3), (6, 5, 5)),
    'MGD': (MGD, (6, 5, 5)),
    'DPK': (lambda: DPK(encoder=(8, 1, 2), decoder=(8, 1, 2), images=8), (6, 5, 5)),
    'CRD': (lambda: CRDLoss(images=9, negatives=4, dim=8), (6,)),
}


@pytest.mark.parametrize('name', PARTS)
def test_a_run_that_starts_anew_measures_anew(name):
    make, shape = PARTS[name]
    part, resumed = make(), make()
    part.setup(pair(*shape))
    resumed.setup(pair(*shape))
    resumed.load_state_dict(part.state_dict())
    fresh = {k: v.clone() for k, v in part.named_buffers(recurse=False)}
    for _ in range(2):
        part(pair(*shape))
    used = {k: v.clone() for k, v in part.state_dict().items()}
    changed = [k for k, v in part.named_buffers(recurse=False) if (v != fresh[k]).any()]
    assert changed
    resumed.load_state_dict(used)
    resumed.before_train(SimpleNamespace(_resume=True))
    for key in changed:
        assert torch.equal(getattr(resumed, key), used[key])
    random = torch.get_rng_state()
    part.before_train(SimpleNamespace(_resume=False))
    assert torch.equal(random, torch.get_rng_state())
    for key in changed:
        if key.startswith('bank'):  # other random vectors
            assert not torch.equal(getattr(part, key), used[key])
        else:
            assert torch.equal(getattr(part, key), fresh[key]), key
    assert getattr(part, '_steps', 0) == getattr(part, '_seen', 0) == 0
