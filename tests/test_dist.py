"""Two processes equal one with the doubled batch, and idle links do not stall DDP."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import toys
from helpers import build, classification_batch, distill_cfg, fitnet
from mmengine.logging import MessageHub
from mmpretrain.structures import DataSample
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.dist


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]


def model_cfg(**link) -> dict:
    links = fitnet(**link)
    links['logits'] = dict(
        student='head', teacher='head', criterion=dict(type='kd_mm.KDLoss')
    )
    return distill_cfg(toys.classifier(), toys.classifier(base=16), links)


def gradients(model, wrapped, batch) -> dict[str, torch.Tensor]:
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    for (
        module
    ) in model.modules():  # per-rank batch statistics are not the doubled batch's
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    loss, _ = model.parse_losses(wrapped(**data, mode='loss'))
    loss.backward()
    return {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://localhost:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    model = build(model_cfg())
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    batch = classification_batch(8)
    half = {key: value[rank * 4 : rank * 4 + 4] for key, value in batch.items()}
    got = gradients(model, ddp, half)

    # images without labels run through the student beside the others
    fed = build(model_cfg())
    ddp = DistributedDataParallel(fed, broadcast_buffers=False)
    every = bare_batch(8)
    fed.distiller.unlabelled = {k: v[rank * 4 : rank * 4 + 4] for k, v in every.items()}
    fed_got = gradients(fed, ddp, half)

    # a link that has ended: the reducer must not wait for its parameters
    ended = build(model_cfg(schedule=dict(stop=1)))
    ddp = DistributedDataParallel(ended, broadcast_buffers=False)
    hub = MessageHub.get_current_instance()
    for done in (0, 1, 2):
        for name, value in dict(iter=done, max_iters=4, max_epochs=4).items():
            hub.update_info(name, value)
        gradients(ended, ddp, half)
    # every rank measures its own images; the multiplier is that of all of them
    held = build(model_cfg(share=0.5))
    ddp = DistributedDataParallel(held, broadcast_buffers=False)
    for _ in range(4):
        gradients(held, ddp, half)
    share = held.distiller.links['fpn'].share
    held_at = (*share.balance, share.weight, *share.guard.level)
    torch.save(held_at, f'{folder}/share_{rank}.pth')
    if rank == 0:
        torch.save(got, f'{folder}/gradients.pth')
        torch.save(fed_got, f'{folder}/unlabelled.pth')
    dist.barrier()
    dist.destroy_process_group()


def bare_batch(count: int) -> dict:
    """Other images than the labelled ones, with samples that say nothing."""
    images = [image.flip(2) for image in classification_batch(count)['inputs']]
    return dict(inputs=images, data_samples=[DataSample() for _ in range(count)])


def test_two_ranks_have_the_gradients_of_the_doubled_batch(tmp_path):
    mp.spawn(work, args=(free_port(), str(tmp_path)), nprocs=2)
    for name, extra in dict(gradients=None, unlabelled=bare_batch(8)).items():
        theirs = torch.load(tmp_path / f'{name}.pth')
        model = build(model_cfg())
        model.distiller.unlabelled = extra
        ours = gradients(model, model, classification_batch(8))
        assert set(ours) == set(theirs)
        for name, gradient in ours.items():
            error = (gradient - theirs[name]).abs().max()
            assert float(error) < 1e-5 * max(1.0, float(gradient.abs().max())), name

    held = build(model_cfg(share=0.5))
    for _ in range(4):
        gradients(held, held, classification_batch(8))
    share = held.distiller.links['fpn'].share
    first, second = (torch.load(tmp_path / f'share_{rank}.pth') for rank in (0, 1))
    assert first == second and first[2] > 0
    assert [float(x) for x in first[:2]] == pytest.approx(
        share.balance.tolist(), abs=1e-4
    )
    # of the student's own loss they know the mean
    level = share.guard.level.tolist()
    theirs = [float(x) for x in first[3:]]
    assert level[2] == 4 and theirs[0::2] == pytest.approx(level[0::2], rel=1e-4)
    assert theirs[3] == pytest.approx(level[3], rel=1e-4)
