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
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample
from torch.autograd import gradcheck

from kd_mm.criteria import CRDLoss, nce_loss
from kd_mm.criteria.crd import refuse_several
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.sizes import data_of_run
from kd_mm.stages.kcd import fit_channels

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
        student=[student.requires_grad_()],
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


def critics():
    p, q = torch.rand(N, dtype=torch.float64), torch.rand(N, 9, dtype=torch.float64)
    valid = torch.rand(N, 9) < 0.7
    valid[0] = False  # an image that all negatives share the class of
    return p, q, valid


def test_nce_equals_a_loop():
    p, q, valid = critics()
    total = 0.0
    for n in range(N):
        noise = int(valid[n].sum()) / IMAGES
        total -= math.log(p[n] / (p[n] + noise))
        for k in range(9):
            if valid[n, k]:
                total -= math.log(noise / (q[n, k] + noise))
    got = nce_loss(p.log(), q.log(), valid, IMAGES)
    assert float(got) == pytest.approx(total / N, rel=1e-9)


def test_nce_has_the_right_gradient_and_survives_extremes():
    p, q, valid = critics()
    inputs = (p.log().requires_grad_(), q.log().requires_grad_())
    assert gradcheck(lambda p, q: nce_loss(p, q, valid, IMAGES), inputs)
    far = torch.tensor([300.0, -300.0]).requires_grad_()  # e**300 is inf in fp32
    loss = nce_loss(far, far[:, None].expand(2, 3), torch.ones(2, 3).bool(), IMAGES)
    (gradient,) = torch.autograd.grad(loss, far)
    assert loss.isfinite() and gradient.isfinite().all() and gradient.any()


def embedded(one, side, feature):
    layer = one.projections[side]
    vectors = feature.double() @ layer.weight.double().T + layer.bias.double()
    return (vectors / vectors.square().sum(1, keepdim=True).sqrt()).detach()


def test_the_loss_is_that_of_both_directions_with_constants_of_the_first_batch(
    monkeypatch,
):
    draw, drawn = CRDLoss._draw, []

    def noted(self, *args):
        drawn.append(draw(self, *args))
        return drawn[-1]

    monkeypatch.setattr(CRDLoss, '_draw', noted)
    one = criterion(weight=1.0)
    drawn.clear()
    before = copy.deepcopy(one.state_dict())
    first, second = pair(1), pair(2, range(10, 10 + N))
    one(first)
    state = copy.deepcopy(one.state_dict())
    got = one(second)
    total = 0.0
    for i, (side, other) in enumerate((('student', 'teacher'), ('teacher', 'student'))):
        own = embedded(one, side, getattr(first, side)[0])
        scores = own @ before[f'bank_{other}'][drawn[0]].double().T
        constant = IMAGES * (scores / 0.07).exp().mean()
        assert float(state['constants'][i].exp()) == pytest.approx(
            float(constant), 1e-3
        )
        bank = state[f'bank_{other}'].double()
        own = embedded(one, side, getattr(second, side)[0])
        for n in range(N):
            keep = [
                k
                for k in drawn[1].tolist()
                if k != 10 + n and int(state['labels'][k]) != (10 + n) % 3
            ]
            noise = len(keep) / IMAGES
            p = float((own[n] @ bank[10 + n] / 0.07).exp() / constant)
            total -= math.log(p / (p + noise)) / N
            for k in keep:
                q = float((own[n] @ bank[k] / 0.07).exp() / constant)
                total -= math.log(noise / (q + noise)) / N
    assert float(got.detach()) == pytest.approx(total, rel=1e-4)
    assert torch.equal(one.constants, state['constants'])


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


def test_an_image_that_comes_twice_is_written_once():
    one, twin = criterion(), criterion()
    data = pair(1, [5, 5, 5, 7, 8, 9])
    one(data)
    with torch.no_grad():
        data.student[0][1:3], data.teacher[0][1:3] = 3.0, -2.0
    twin(data)
    for side in ('student', 'teacher'):
        assert torch.equal(getattr(one, f'bank_{side}'), getattr(twin, f'bank_{side}'))


def test_one_overflow_does_not_stay_in_the_banks():
    one, data = criterion(), pair(1)
    with torch.no_grad():
        data.student[0][2, 0] = math.inf
    old = one.bank_student.clone()
    one.constants.fill_(5.0)
    one(data)
    assert one.bank_student.isfinite().all()
    assert torch.equal(one.bank_student[2], old[2])
    assert not torch.equal(one.bank_student[3], old[3])


def test_one_overflow_does_not_stay_in_the_constants():
    one, data = criterion(), pair(1)
    with torch.no_grad():
        data.student[0][2, 0] = math.inf
    one(data)
    assert torch.equal(one.constants, torch.zeros(2))
    assert one(pair(1)).isfinite() and (one.constants != 0).all()


def test_the_trial_pass_and_a_measurement_leave_the_banks_alone():
    one, fresh, data = criterion(), criterion(), pair(1)
    data.student[0] = data.student[0].detach()  # as DAFA asks the criterion
    assert one(data).isfinite()
    assert not one.constants.any() and (one.labels == -1).all()
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, one.state_dict()[key]), key


def test_ranks_and_batches_have_negatives_of_their_own():
    one = criterion()
    draw = [one._draw(list(i), torch.device('cpu')) for i in ((1, 2), (2, 1), (1, 2))]
    assert torch.equal(draw[0], draw[2]) and not torch.equal(draw[0], draw[1])


def test_a_loaded_criterion_continues_bit_for_bit():
    whole, second = criterion(), criterion()
    whole(pair(1))
    load_state_dict(second, copy.deepcopy(whole.state_dict()), strict=True)
    values = []
    for seed, one in enumerate((whole, second)):
        torch.manual_seed(seed)  # a resumed run does not have the old random state
        values.append(one(pair(2, range(8, 8 + N))))
    assert torch.equal(*values)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(samples=[DataSample().set_gt_label(0)] * N), 'meta_keys'),
        (
            dict(samples=samples([IMAGES + 3] * N, [0] * N)),
            f'images={IMAGES}.*met image {IMAGES + 3}',
        ),
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


ALIGN, DAFA = dict(type='kd_mm.ChannelAlign'), dict(type='kd_mm.DAFA', start=0)


@pytest.mark.parametrize(
    'stages',
    [[], [ALIGN], [DAFA], [ALIGN, DAFA]],
    ids=['alone', 'KCD', 'DAFA', 'KCD+DAFA'],
)
def test_teaches_a_classifier_behind_what_acts_on_vectors(stages):
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), toy_link(*stages))
    model = build(cfg)
    link = model.distiller.links['vector']
    if ALIGN in stages:
        fit_channels(model, [link.stages[0]], [batch()])
    logs = train_steps(model, batch(), steps=6, lr=0.1)
    assert 0 < logs[-1]['loss_kd_vector'] < logs[0]['loss_kd_vector']
    assert (link.criterion.labels >= 0).sum() == N
    model.parse_losses(losses_of(model, batch()))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


def test_mixed_images_are_remembered_with_the_larger_share():
    one, data = criterion(), pair()
    data.samples[2].set_gt_score(torch.tensor([0.1, 0.3, 0.6, 0.0]))
    one(data)
    assert one.labels[:N].tolist() == [0, 1, 2, 0, 1, 2]
    data.samples[2].set_gt_score(torch.tensor([0.1, 0.6, 0.3, 0.0]))
    one(data)
    assert one.labels[2] == 1


def test_works_in_fp32_under_autocast():
    one, other, data = criterion(), criterion(), pair()
    rounded = data.student[0].detach().bfloat16()
    data.student = [rounded.float().requires_grad_()]
    expected = other(data)
    data.student = [rounded.requires_grad_()]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = one(data)
    assert got.dtype == torch.float32 and torch.equal(got, expected)


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://localhost:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    one = criterion()
    for step in range(3):
        start = 12 * step + N * rank
        one(pair(10 * rank + step, range(start, start + N)))
    one(pair(50 + rank, range(N)))  # the same images on both
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


def links(**options) -> dict:
    return dict(
        vector=dict(
            student='neck[2]',
            teacher='neck[2]',
            criterion=dict(type='kd_mm.CRDLoss', negatives=8, dim=DIM, **options),
        )
    )


def test_images_that_share_a_number_are_refused():
    class Images(list):
        pass

    both, fold = Images(), Images()
    both.datasets, fold.dataset = [range(3), range(3)], both
    with pytest.raises(ConfigError, match='every part of a Images counts from 0'):
        refuse_several(fold)
    both.datasets = [range(3)]
    refuse_several(fold)


def test_the_size_of_the_training_set_is_found():
    """Through wrappers, and built once: the runner finds it built."""

    class Images(list):
        pass

    class Fold(list):
        dataset = Images(range(23))

    loader = dict(dataset=Fold(range(5)))
    cfg = distill_cfg(toys.classifier(), toys.classifier(), links())
    with data_of_run(loader):
        known = build(cfg)
    assert known.distiller.links['vector'].criterion.images == 23
    batch = classification_batch(4)
    for i, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(sample_idx=22 - i))
    train_steps(known, batch, 1)

    # a tool that only reads the checkpoint need not know
    other = build(cfg)
    other.load_state_dict(known.state_dict())
    bank = other.distiller.links['vector'].criterion.bank_student
    assert torch.equal(bank, known.distiller.links['vector'].criterion.bank_student)
    with pytest.raises(ConfigError, match='CRDLoss.images is missing'):
        losses_of(build(cfg).train(), batch)
