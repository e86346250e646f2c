"""On a card without values a step that reads one fails, and one that mixes devices.

``FakeTensorMode`` has CUDA tensors where there is no GPU. What draws its numbers on the
card (MGD), or lets a policy on the host decide (DAFA), needs a real one:
tests/test_accelerator.py. The mode leaves PyTorch with a device that is none, after
which a process cannot be forked: test_fake_card.py runs these in one of their own.
"""

import copy

import pytest
import torch
import toys
from helpers import classification_batch, detection_batch, distill_cfg
from test_accelerator import CLASSIFIERS, DETECTORS, ready
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kd_mm.stages import DPK

NEED_A_CARD = ('MGD', 'DAFA')


@pytest.fixture(autouse=True)
def dpk_draws_without_a_generator(monkeypatch):
    def order(self, teacher, net, level):
        rows, columns = net.grid(*teacher.shape[2:])
        height = torch.rand(len(teacher), rows * columns, device=teacher.device)
        return height.argsort(1)

    monkeypatch.setattr(DPK, '_order', order)


def without_values(tensor: torch.Tensor) -> torch.Tensor:
    tensor = getattr(tensor, 'tensor', tensor)  # of boxes
    return torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda')


def losses_on_a_card(model, data) -> dict:
    """The losses of a step, all there is on a card (whose backward pass needs one)."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.no_grad():
            model._apply(without_values)
        for sample in data['data_samples']:
            if 'gt_instances' in sample:
                boxes = sample.gt_instances
                boxes.bboxes = without_values(boxes.bboxes)
                boxes.labels = without_values(boxes.labels)
            else:
                sample.gt_label = without_values(sample.gt_label)
        inputs = without_values(data['inputs'])
        return model(inputs, data['data_samples'], mode='loss')


def on_one_card(losses: dict) -> bool:
    own = [value for name, value in losses.items() if name.startswith('loss_kd')]
    return bool(own) and all(value.device.type == 'cuda' for value in own)


@pytest.mark.parametrize('name', [n for n in CLASSIFIERS if n not in NEED_A_CARD])
def test_a_classifiers_step_reads_nothing_and_mixes_nothing(name):
    cfg = distill_cfg(toys.classifier(), toys.classifier(), CLASSIFIERS[name])
    assert on_one_card(losses_on_a_card(*ready(cfg, classification_batch(), 'cpu')))


@pytest.mark.parametrize('name', [n for n in DETECTORS if n not in NEED_A_CARD])
def test_a_detectors_links_read_nothing_and_mix_nothing(name):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), DETECTORS[name])
    model, data = ready(cfg, detection_batch(), 'cpu')
    # the assignment of boxes is not ours, and reads
    model.bbox_head.loss = lambda maps, _: dict(loss_cls=sum(m.sum() for m in maps))
    assert on_one_card(losses_on_a_card(model, data))


@pytest.mark.parametrize(
    ('fault', 'error'),
    [
        (lambda value: value * float(value), DataDependentOutputException),
        (lambda value: value * torch.ones(1), RuntimeError),
    ],
    ids=['reads', 'mixes'],
)
def test_both_faults_are_seen(fault, error, monkeypatch):
    cfg = distill_cfg(toys.classifier(), toys.classifier(), CLASSIFIERS['CWD'])
    model, data = ready(copy.deepcopy(cfg), classification_batch(), 'cpu')
    criterion = model.distiller.links['x'].criterion
    right = criterion.total
    monkeypatch.setattr(criterion, 'total', lambda pair: fault(right(pair)))
    with pytest.raises(error):
        losses_on_a_card(model, data)
