"""CRD: noise-contrastive loss, banks, and what it needs of the data."""

import copy
import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import toys
from helpers import build, classification_batch, distill_cfg, losses_of, train_steps
from mmpretrain.structures import DataSample
from torch.autograd import gradcheck

from kd_mm.criteria import CRDLoss, nce_loss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair

N, IMAGES, DIM = 6, 40, 5
FIRST = range(N)
OPTIONS = dict(images=IMAGES, negatives=16, dim=DIM)


def samples(indices, classes):
    pairs = zip(indices, classes, strict=True)
    return [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(label)
        for i, label in pairs
    ]


def pair(seed=0, indices=FIRST, widths=(4, 7)) -> FeaturePair:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(N, c, generator=generator) for c in widths)
    return FeaturePair(
        link='x',
        student=[student],
        teacher=[teacher],
        samples=samples(indices, [i % 3 for i in indices]),
        image_size=(32, 32),
    )


def criterion(**options) -> CRDLoss:
    torch.manual_seed(0)
    one = CRDLoss(**(OPTIONS | options))
    one.eval().setup(pair())
    one(pair())
    return one.train()


def test_nce_equals_a_loop():
    p, q = torch.rand(N, dtype=torch.float64), torch.rand(N, 9, dtype=torch.float64)
    valid = torch.rand(N, 9) < 0.7
    total = 0.0
    for n in range(N):
        noise = int(valid[n].sum()) / IMAGES
        total -= math.log(p[n] / (p[n] + noise))
        for k in range(9):
            if valid[n, k]:
                total -= math.log(noise / (q[n, k] + noise))
    assert float(nce_loss(p, q, valid, IMAGES)) == pytest.approx(total / N, rel=1e-9)


def test_nce_has_the_right_gradient():
    p, q = torch.rand(N, dtype=torch.float64), torch.rand(N, 9, dtype=torch.float64)
    valid = torch.rand(N, 9) < 0.7
    inputs = (p.requires_grad_(), q.requires_grad_())
    assert gradcheck(lambda p, q: nce_loss(p, q, valid, IMAGES), inputs)


def test_the_loss_is_that_of_both_directions_with_constants_of_the_first_batch():
    one = criterion(weight=1.0)
    before = copy.deepcopy(one.state_dict())
    first, second = pair(1), pair(2, range(10, 10 + N))
    torch.manual_seed(3)
    one(first)
    state = copy.deepcopy(one.state_dict())
    torch.manual_seed(4)
    got = one(second)
    torch.manual_seed(3)
    drawn_first = torch.randint(IMAGES, (16,))
    torch.manual_seed(4)
    drawn = torch.randint(IMAGES, (16,))
    total = 0.0
    for i, (side, other) in enumerate((('student', 'teacher'), ('teacher', 'student'))):

        def embed(feature, side=side):
            layer = one.projections[side]
            return F.normalize(feature @ layer.weight.T + layer.bias, dim=1)

        old = embed(getattr(first, side)[0]) @ before[f'bank_{other}'][drawn_first].T
        constant = IMAGES * (old / 0.07).exp().mean()
        torch.testing.assert_close(state['constants'][i], constant)
        bank, own = state[f'bank_{other}'], embed(getattr(second, side)[0])
        for n in range(N):
            keep = [
                k
                for k in drawn.tolist()
                if k != 10 + n and int(state['labels'][k]) != (10 + n) % 3
            ]
            noise = len(keep) / IMAGES
            p = float((own[n] @ bank[10 + n] / 0.07).exp() / constant)
            total -= math.log(p / (p + noise)) / N
            for k in keep:
                q = float((own[n] @ bank[k] / 0.07).exp() / constant)
                total -= math.log(noise / (q + noise)) / N
    assert float(got) == pytest.approx(total, rel=1e-3)


def test_banks_follow_with_momentum_where_images_were_seen():
    one = criterion(momentum=0.25)
    before = copy.deepcopy(one.state_dict())
    one(pair(1, range(20, 20 + N)))
    feature = pair(1).student[0]
    own = F.normalize(one.projections['student'](feature), dim=1)
    expected = F.normalize(0.25 * before['bank_student'][20:26] + 0.75 * own, dim=1)
    torch.testing.assert_close(one.bank_student[20:26], expected)
    assert torch.equal(one.bank_student[:20], before['bank_student'][:20])
    assert one.labels[20:26].tolist() == [i % 3 for i in range(20, 26)]
    assert (one.labels[26:] == -1).all()


def test_the_trial_pass_leaves_the_banks_alone():
    one = criterion()
    assert not one.constants.any() and (one.labels == -1).all()


def test_a_loaded_criterion_continues_bit_for_bit():
    whole, second = criterion(), criterion()
    whole(pair(1))
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    for one in (whole, second):
        torch.manual_seed(8)
        one.value = one(pair(2))
    assert torch.equal(whole.value, second.value)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(samples=[DataSample().set_gt_label(0)] * N), 'meta_keys'),
        (dict(samples=samples([IMAGES] * N, [0] * N)), f'met image {IMAGES}'),
    ],
)
def test_says_what_it_needs_of_the_data(change, message):
    one, data = criterion(), pair()
    data.samples = change['samples']
    with pytest.raises(ConfigError, match=message):
        one(data)


def test_refuses_maps_and_senseless_numbers():
    maps = pair()
    maps.student = [torch.randn(N, 4, 2, 2)]
    with pytest.raises(ConfigError, match='tap the neck'):
        CRDLoss(**OPTIONS).setup(maps)
    with pytest.raises(ConfigError, match='tau'):
        CRDLoss(tau=0.0)


def toy_link(*stages):
    return dict(
        vector=dict(
            student='neck[2]',
            teacher='neck[2]',
            stages=list(stages),
            criterion=dict(type='kd_mm.CRDLoss', **OPTIONS),
        )
    )


def batch():
    data = classification_batch(N)
    for i, sample in enumerate(data['data_samples']):
        sample.set_metainfo(dict(sample_idx=i))
    return data


@pytest.mark.parametrize('stages', [[], [dict(type='kd_mm.DAFA', start=0)]])
def test_teaches_a_real_classifier(stages):
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), toy_link(*stages))
    model = build(cfg)
    logs = train_steps(model, batch(), steps=6, lr=0.1)
    assert 0 < logs[-1]['loss_kd_vector'] < logs[0]['loss_kd_vector']
    model.parse_losses(losses_of(model, batch()))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


def test_works_in_fp32_under_autocast():
    one, data = criterion(), pair()
    data.student = [data.student[0].bfloat16()]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert one(data).dtype == torch.float32


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://localhost:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    one = criterion()
    for step in range(3):
        one(
            pair(
                10 * rank + step, range(12 * step + N * rank, 12 * step + N * rank + N)
            )
        )
    torch.save(one.state_dict(), f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_have_the_same_banks(tmp_path):
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert (first['labels'] >= 0).sum() == 36
