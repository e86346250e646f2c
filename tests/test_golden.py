"""The methods are what they were: stored numbers, formulas and package agree."""

import json

import golden_formulas as golden
import numpy as np
import pytest
import torch
from golden_criteria import BOXES, LABELS
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample

from kd_mm.criteria import (
    ATLoss,
    CRDLoss,
    CWDLoss,
    DISTLoss,
    DKDLoss,
    FGDLoss,
    HCLLoss,
    KDLoss,
    MSELoss,
    OFDLoss,
    PKDLoss,
    SPLoss,
    nce_loss,
)
from kd_mm.pair import FeaturePair
from kd_mm.stages.dpk.cka import cka, hsic_terms, linear_cka
from kd_mm.stages.dpk.prior_net import PriorNet, Size
from kd_mm.stages.sokd.areas import Areas, area_mask, find_areas
from kd_mm.stages.sokd.operators import OPERATORS, Chance

STORED = json.loads(golden.STORED.read_text()) if golden.STORED.exists() else {}
GIVEN = {name: torch.from_numpy(value) for name, value in golden.inputs().items()}
CHANCE = Chance((-0.4, 0.3), 7)
BANK = {
    f'{side}{part}': shape
    for side in ('student', 'teacher')
    for part, shape in {'.weight': (3, 7), '.bias': (3,)}.items()
} | dict(bank_student=(12, 3), bank_teacher=(12, 3))
WHERE = [[0, 1, 2, 3, 4], [7, 3, 0, 9, 4]]  # the images of two batches
PATCH = Size(8, 1, 2)


def shapes(module) -> dict[str, tuple]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def net() -> PriorNet:
    return PriorNet(student=4, teacher=6, patch=2, encoder=PATCH, decoder=PATCH)


def fgd() -> FGDLoss:
    criterion = FGDLoss()
    criterion.setup(pair('s', 't'))
    return criterion


def crd() -> CRDLoss:
    """With weights by name, and banks."""
    criterion = CRDLoss(images=12, negatives=6, dim=3, tau=0.5, momentum=0.25)
    criterion.setup(pair('p', 'q'))
    weights = golden.weights(BANK)
    load(criterion.projections, weights)
    for side in ('student', 'teacher'):
        bank = torch.from_numpy(weights[f'bank_{side}']).float()
        getattr(criterion, f'bank_{side}').copy_(torch.nn.functional.normalize(bank))
    return criterion


def drawn_by_the_package() -> dict:
    """Weights by the package's names, and the chance of operators."""
    n = GIVEN['t'].shape[1]
    block = shapes(fgd().contexts['student'][0])
    return dict(
        net=golden.weights(shapes(net())),
        contexts=dict(
            student=golden.weights(block),
            teacher={k: v / 2 for k, v in golden.weights(block).items()},
        ),
        bank=dict(
            weights=golden.weights(BANK),
            where=WHERE,
            drawn=[crd()._draw(where, 'cpu').tolist() for where in WHERE],
            tau=0.5,
            momentum=0.25,
        ),
        chance=dict(
            normal=torch.randn(GIVEN['t'].shape, generator=CHANCE.generator()).numpy(),
            order=torch.randperm(n, generator=CHANCE.generator()).numpy(),
            uniform=torch.rand(n, generator=CHANCE.generator()).numpy(),
        ),
    )


def load(module, weights: dict) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))


def samples() -> list[DataSample]:
    found = []
    for boxes, label in zip(BOXES, LABELS, strict=False):
        sample = DataSample().set_gt_label(label)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        found.append(sample)
    return found


def pair(student, teacher, weight=None) -> FeaturePair:
    return FeaturePair(
        link='x',
        student=[GIVEN[student].float()],
        teacher=[GIVEN[teacher].float()],
        samples=samples()
        if student != 'p'
        else [DataSample().set_gt_label(label) for label in LABELS],
        image_size=golden.IMAGE,
        weight=[weight],
    )


def twice(criterion, student='s', teacher='t') -> list[float]:
    """Without a weight map and with one."""
    weight = GIVEN['w'].float()
    return [float(criterion(pair(student, teacher, w))) for w in (None, weight)]


def crd_nce() -> list[float]:
    valid = torch.tensor([[(i + j) % 3 > 0 for j in range(9)] for i in range(5)])
    return [float(nce_loss(GIVEN['positive'], GIVEN['negative'], valid, 50))]


def two_batches() -> list[float]:
    criterion, out = crd(), []
    for where in WHERE:
        batch = pair('p', 'q')
        batch.student[0].requires_grad_()
        for sample, image in zip(batch.samples, where, strict=True):
            sample.set_metainfo(dict(sample_idx=image))
        out.append(float(criterion(batch).detach()) / criterion.weight)
    return out


def fgd_with_weights() -> list[float]:
    criterion, drawn = fgd(), drawn_by_the_package()['contexts']
    for side, weights in drawn.items():
        load(criterion.contexts[side][0], weights)
    return [float(criterion(pair('s', 't')))]


def alike() -> list[float]:
    x, y = GIVEN['x'], GIVEN['y']
    return [float(linear_cka(x, y)), float(cka(x, y)), *hsic_terms(x, y).tolist()]


def rebuilt():
    model = net()
    load(model, drawn_by_the_package()['net'])
    order = GIVEN['order']
    with torch.no_grad():
        return model(GIVEN['s'].float(), GIVEN['wide'].float(), order, 5)


def areas() -> Areas:
    heat, size, offset = (GIVEN[name].float() for name in ('heat', 'size', 'offset'))
    return Areas(heat.sigmoid(), size.abs() * 2, offset.sigmoid())


def mask():
    return area_mask(find_areas(areas(), 3), (6, 8), overlap='sum', normalise='all')


def augmented(name: str):
    return OPERATORS[name](GIVEN['t'].float(), torch.tensor(0.8), CHANCE, 0.75)


PACKAGE = {
    'mse': lambda: twice(MSELoss()),
    'at': lambda: twice(ATLoss(), teacher='wide'),
    'cwd': lambda: twice(CWDLoss(tau=2.0)),
    'pkd': lambda: twice(PKDLoss()),
    'ofd': lambda: twice(OFDLoss()),
    'hcl': lambda: twice(HCLLoss()),
    'sp': lambda: [float(SPLoss()(pair('s', 'wide')))],
    'kd': lambda: [float(KDLoss(tau=3.0)(pair('p', 'q')))],
    'kd_binary': lambda: twice(KDLoss(tau=2.0, sigmoid=True)),
    'kd_standardised': lambda: [
        float(KDLoss(tau=2.0, standardise=True)(pair('p', 'q')))
    ],
    'dkd': lambda: [float(DKDLoss()(pair('p', 'q')))],
    'dist': lambda: [float(DISTLoss(tau=2.0)(pair('p', 'q')))],
    'crd_nce': crd_nce,
    'crd': two_batches,
    'fgd': fgd_with_weights,
    'cka': alike,
    'dpk': rebuilt,
    'dam boxes': lambda: find_areas(areas(), 3),
    'dam mask': mask,
    **{f'dafa {name}': lambda name=name: augmented(name) for name in OPERATORS},
}


def test_everything_has_its_numbers():
    assert set(STORED) == {*PACKAGE, 'inputs'}


@pytest.mark.parametrize('name', PACKAGE)
def test_the_package_gives_the_stored_numbers(name):
    found = golden.digest(np.asarray(PACKAGE[name]()))
    assert found == pytest.approx(STORED[name], rel=2e-5, abs=2e-6)


def test_the_formulas_give_the_stored_numbers():
    found = golden.results(**drawn_by_the_package())
    assert set(found) == set(STORED)
    for name, numbers in found.items():
        assert numbers == pytest.approx(STORED[name], rel=1e-9, abs=1e-12), name
