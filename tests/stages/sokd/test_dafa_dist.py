"""Two ranks hold one policy."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import toys
from helpers import build, classification_batch, distill_cfg
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.dist
STEPS = 6


def model():
    link = dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.DAFA', start=0, lr=0.05),
            dict(type='kd_mm.ConvAdapter'),
            dict(type='kd_mm.DAM', top_k=2),
        ],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    return build(
        distill_cfg(toys.classifier(), toys.classifier(base=16), dict(maps=link))
    ).eval()  # batch statistics are each rank's own


def policy_after(batches, wrap=lambda one: one) -> tuple[torch.Tensor, list[int]]:
    one = model()
    one.training = one.distiller.links['maps'].stages[0].training = True
    stage, wrapped, drawn = one.distiller.links['maps'].stages[0], wrap(one), []
    draw = stage.policy.draw

    def noted():
        drawn.append(draw())
        return drawn[-1]

    stage.policy.draw = noted
    for batch in batches:
        data = one.data_preprocessor(batch, True)
        one.parse_losses(wrapped(**data, mode='loss'))[0].backward()
    stage.settle()
    return stage.policy.chi, [d.index for d in drawn]


def batches(part=slice(None)):
    for _ in range(STEPS):
        batch = classification_batch(8)
        yield {key: value[part] for key, value in batch.items()}


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://localhost:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    half = batches(slice(rank * 4, rank * 4 + 4))
    found = policy_after(
        half, lambda one: DistributedDataParallel(one, broadcast_buffers=False)
    )
    torch.save(found, f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_draw_and_learn_the_same_and_as_one_with_the_whole_batch(tmp_path):
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    (chi_0, drawn_0), (chi_1, drawn_1) = (
        torch.load(tmp_path / f'{rank}.pth') for rank in range(2)
    )
    assert torch.equal(chi_0, chi_1) and drawn_0 == drawn_1
    chi, drawn = policy_after(batches())
    assert drawn == drawn_0 and len(set(drawn)) > 1
    assert not torch.equal(chi[36:], torch.full_like(chi[36:], 0.5))
    moved = (chi - chi_0).abs()
    # Noise is each rank's own, so that policies with it may differ a little
    assert float(moved.median()) < 1e-4
