"""DPK in a link: it trains, resumes and distributes, and refuses what does not fit."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import toys
from dpk_toys import TINY, make_pair, ready
from helpers import (
    blotchy_batches,
    build,
    classification_batch,
    distill_cfg,
    runner,
    train_steps,
)

from kd_mm.errors import ConfigError
from kd_mm.stages import DPK


@pytest.mark.parametrize('size', [(8, 8), (7, 9), (1, 1), (2, 3)])
@pytest.mark.parametrize('patch', [1, 2, 4])
def test_any_size_is_padded_and_cut_again(size, patch):
    pair = make_pair(((2, 4, *size),), ((2, 6, *size),))
    out = ready(pair, patch=patch)(pair)
    assert out.student[0].shape == (2, 6, *size) and out.student[0].isfinite().all()


def links(**dpk) -> dict:
    stage = dict(type='kd_mm.DPK', **{**TINY, **dpk})
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[stage],
            criterion=dict(type='kd_mm.MSELoss'),
        )
    )


def detector(**dpk):
    return distill_cfg(toys.retinanet(), toys.retinanet(width=24), links(**dpk))


def test_a_detector_learns_to_rebuild_its_teacher():
    model = build(detector())
    logs = train_steps(model, blotchy_batches(1)[0], 12, lr=0.1)
    assert logs[-1]['loss_kd_fpn'] < 0.9 * logs[0]['loss_kd_fpn']
    assert {'kd_fpn_ratio_0', 'kd_fpn_cka_4'} <= set(logs[-1])


def test_goes_with_kd_on_logits_in_a_classifier():
    maps = dict(
        student='backbone',
        teacher='backbone',
        stages=[dict(type='kd_mm.DPK', **TINY)],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    logits = dict(
        student='head', teacher='head', criterion=dict(type='kd_mm.KDLoss', tau=1.0)
    )
    links = dict(maps=maps, logits=logits)
    model = build(distill_cfg(toys.classifier(), toys.classifier(base=16), links))
    logs = train_steps(model, classification_batch(8), 8, lr=0.05)
    assert logs[-1]['loss_kd_maps'] < logs[0]['loss_kd_maps']
    assert 'loss_kd_logits' in logs[-1] and 'kd_maps_ratio_0' in logs[-1]


def test_levels_that_are_left_out_go_on_as_they_are():
    shapes = ((2, 6, 8, 8), (2, 6, 4, 4))
    pair = make_pair(shapes, shapes)
    stage, first = ready(pair, levels=[1], patch=[2]), pair.student[0]
    assert stage(pair).student[0] is first and set(stage.nets) == {'1'}


def test_parameters_and_flops_are_said_at_the_start(caplog):
    from mmengine.logging import MMLogger

    seen = []
    logger = MMLogger.get_current_instance()
    logger.addFilter(lambda record: seen.append(record.getMessage()) or True)
    stage = ready(make_pair())
    parameters = sum(p.numel() for p in stage.parameters()) / 1e6
    assert any(f'DPK level 0: {parameters:.2f} M parameters' in line for line in seen)
    logger.filters.pop()


def test_trains_under_amp():
    model = build(detector())
    data = model.data_preprocessor(blotchy_batches(1)[0], True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**data, mode='loss')
    model.parse_losses(losses)[0].backward()
    stage = model.distiller.links['fpn'].stages[0]
    assert all(p.grad.isfinite().all() for p in stage.parameters())
    assert stage.ratios.isfinite().all() and stage.ratios.dtype == torch.float32


def step_of(**kwargs):
    """What one step gives, from the same weights: the map and all gradients."""
    torch.manual_seed(0)
    pair = make_pair()
    stage = ready(pair, ratio=0.5, **kwargs)
    for parameter in stage.parameters():  # positions alone would hide an error
        torch.nn.init.normal_(parameter, std=0.2)
    student = pair.student[0]
    out = stage(pair).student[0]
    out.square().mean().backward()
    return [out, student.grad, *(p.grad for p in stage.parameters())]


def test_checkpointing_changes_memory_alone():
    kept, again = step_of(), step_of(checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    pair = make_pair()
    stage = ready(pair, checkpoint=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        stage(pair)
    wide = [shape for shape in saved if shape and shape[-1] == 4 * 16]
    assert not wide  # nothing of the inner layers is kept


def test_modules_in_bf16_without_amp():
    full, half = step_of(), step_of(dtype='bf16')
    assert all(tensor.dtype == torch.float32 for tensor in half)
    for a, b in zip(full, half, strict=True):
        error = float((a - b).norm() / a.norm().clamp(min=1e-12))
        assert error < 0.05
    assert not torch.equal(full[0], half[0])


def test_resumes_bit_for_bit(tmp_path):
    cfg = detector(images=6)
    whole = runner(cfg, tmp_path / 'whole', epochs=2)
    whole.train()
    (tmp_path / 'part').mkdir()
    last = tmp_path / 'part' / 'last_checkpoint'
    last.write_text(str(tmp_path / 'whole' / 'epoch_1.pth'))
    part = runner(cfg, tmp_path / 'part', epochs=2, resume=True)
    part.train()
    expected, got = whole.model.state_dict(), part.model.state_dict()
    assert any('stages.0.student_0' in key for key in expected)
    for key, value in expected.items():
        assert torch.equal(value, got[key]), key


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(ratio='dynamic'), 'DPK.ratio'),
        (dict(ratio=1.5), 'DPK.ratio'),
        (dict(positions='edges'), 'DPK.positions'),
        (dict(bounds=(0.9, 0.1)), 'DPK.bounds'),
        (dict(ratio=0.5, bounds=(0.2, 0.8)), 'DPK.bounds=.* has no effect'),
        (dict(fallback=2), 'DPK.fallback'),
        (dict(images=3), 'DPK.images'),
    ],
)
def test_senseless_options_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        DPK(**wrong)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(patch=[1, 2]), 'DPK.patch has 2 entries for 5 levels'),
        (dict(patch=0), 'DPK.patch: expected an int >= 1'),
        (dict(encoder=(18, 1, 4)), 'DPK.encoder is'),
        (dict(levels=[5]), 'DPK.levels'),
        (dict(levels=[1, 1]), 'DPK.levels'),
    ],
)
def test_what_does_not_fit_the_link_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=f'links.fpn.*{message}'):
        build(detector(**wrong))


def test_vectors_and_unequal_sizes_are_refused():
    with pytest.raises(ConfigError, match='takes maps'):
        ready(make_pair(((2, 8),), ((2, 8),)))
    with pytest.raises(ConfigError, match='Resize'):
        ready(make_pair(((2, 4, 8, 8),), ((2, 4, 4, 4),)))


# ---- two ranks --------------------------------------------------------------------


def dist_model():
    link = dict(
        student='backbone',
        teacher='backbone',
        stages=[dict(type='kd_mm.DPK', positions='energy', **TINY)],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), dict(maps=link))
    model = build(cfg).eval()  # batch statistics are each rank's own
    model.training = model.distiller.links['maps'].stages[0].training = True
    return model


def step(model, wrapped, part=slice(None)):
    batch = classification_batch(8)
    batch = {key: value[part] for key, value in batch.items()}
    for _ in range(2):  # the second with the ratio of the first
        data = model.data_preprocessor(batch, True)
        model.zero_grad()
        model.parse_losses(wrapped(**data, mode='loss'))[0].backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return model.distiller.links['maps'].stages[0].ratios.clone(), gradients


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://localhost:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    model = dist_model()
    wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    torch.save(
        step(model, wrapped, slice(rank * 4, rank * 4 + 4)), f'{folder}/{rank}.pth'
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_have_the_ratio_and_gradients_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    (first, theirs), (second, _) = (
        torch.load(tmp_path / f'{rank}.pth') for rank in range(2)
    )
    assert torch.equal(first, second) and bool((first != 0.5).any())
    model = dist_model()
    ratio, ours = step(model, model)
    torch.testing.assert_close(first, ratio, atol=1e-4, rtol=1e-4)
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        error = (gradient - theirs[name]).abs().max()
        assert float(error) < 1e-5 * max(1.0, float(gradient.abs().max())), name
