"""DPK: who sees what, how much, and that it trains, resumes and distributes."""

import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import toys
from helpers import (
    blotchy_batches,
    build,
    classification_batch,
    distill_cfg,
    runner,
    train_steps,
)
from mmengine.logging import MessageHub

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import DPK
from kd_mm.stages.dpk.cka import cka
from kd_mm.stages.dpk.dpk import bounded

TINY = dict(encoder=(16, 1, 2), decoder=(16, 1, 2))


def make_pair(student=((2, 4, 8, 8),), teacher=((2, 6, 8, 8),)):
    return FeaturePair(
        link='x',
        student=[torch.randn(shape, requires_grad=True) for shape in student],
        teacher=[torch.randn(shape) for shape in teacher],
        samples=[],
        image_size=(64, 64),
    )


def ready(pair, **kwargs) -> DPK:
    stage = DPK(**{**TINY, **kwargs})
    stage.setup(pair)
    return stage


@pytest.mark.parametrize('size', [(8, 8), (7, 9), (1, 1), (2, 3)])
@pytest.mark.parametrize('patch', [1, 2, 4])
def test_any_size_is_padded_and_cut_again(size, patch):
    pair = make_pair(((2, 4, *size),), ((2, 6, *size),))
    out = ready(pair, patch=patch)(pair)
    assert out.student[0].shape == (2, 6, *size) and out.student[0].isfinite().all()


@pytest.mark.parametrize('ratio', [0.0, 1.0])
def test_all_or_nothing_of_the_teacher(ratio):
    pair = make_pair()
    stage = ready(pair, ratio=ratio)
    student = pair.student[0]
    out = stage(pair).student[0]
    (out - pair.teacher[0]).square().mean().backward()
    reached = student.grad is not None and bool(student.grad.abs().sum() > 0)
    assert reached == (ratio == 0.0)
    idle = stage.nets['0'].encoders['teacher' if ratio == 0.0 else 'student']
    # under DDP a parameter without a gradient would stall the reducer
    assert all(p.grad is not None and not p.grad.any() for p in idle.parameters())


# ---- how much --------------------------------------------------------------------


def test_the_ratio_follows_the_gap():
    pair = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
    stage = ready(pair, images=0)
    maps, seen = pair.teacher[0], {}
    for name, student in (
        ('same', maps.clone()),
        ('scaled', 3 * maps.flip(1)),
        ('near', maps + 0.5 * torch.randn_like(maps)),
        ('foreign', torch.randn_like(maps)),
    ):
        one = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
        one.student, one.teacher = [student], [maps]
        stage(one)
        seen[name] = float(stage.ratios[0])
        alike = float(cka(student, maps))  # 8 x 8 cells: nothing is averaged
        inside = 0 < 1 - alike < 1
        expected = min(max(1 - alike, 0.1), 0.95) if inside else 0.5
        assert seen[name] == pytest.approx(expected, abs=1e-4), name
    assert seen['near'] < seen['foreign'] or seen['foreign'] == 0.5


@pytest.mark.parametrize(
    ('raw', 'expected'),
    [(0.3, 0.3), (0.01, 0.1), (0.99, 0.95), (0.0, 0.5), (1.2, 0.5), (math.nan, 0.5)],
)
def test_a_ratio_is_bounded_or_falls_back(raw, expected):
    got = bounded(torch.tensor(raw), (0.1, 0.95), 0.5)
    assert float(got) == pytest.approx(expected)


def test_a_ratio_takes_effect_in_the_next_step():
    pair = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
    stage, shown, measured = ready(pair), [], []
    for _ in range(3):
        one = make_pair(((8, 4, 8, 8),), ((8, 4, 8, 8),))
        one.student = [one.teacher[0] + 0.7 * torch.randn(8, 4, 8, 8)]
        shown.append(float(stage(one).logs['ratio_0']))
        measured.append(float(stage.ratios[0]))
    assert shown == pytest.approx([0.5, *measured[:2]])


def test_small_batches_are_filled_up_with_earlier_images():
    student, teacher = torch.randn(8, 4, 8, 8), torch.randn(8, 6, 8, 8)
    teacher[:, :4] += 2 * student
    whole = cka(student, teacher)
    stage, seen = ready(make_pair(), images=8), []
    for i in range(0, 8, 2):
        pair = make_pair()
        pair.student, pair.teacher = [student[i : i + 2]], [teacher[i : i + 2]]
        seen.append(stage(pair).logs['cka_0'])
    assert seen[0].isnan() and not seen[1].isnan()  # two images, four images
    torch.testing.assert_close(seen[3], whole, atol=1e-5, rtol=1e-4)
    pair = make_pair()  # the oldest two make way
    pair.student, pair.teacher = [student[:2]], [teacher[:2]]
    torch.testing.assert_close(stage(pair).logs['cka_0'], whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ('ratio', 'expected'),
    [
        (0.25, [0.25, 0.25, 0.25]),
        ('linear', [0.8, 0.5, 0.35]),
        ('exponential', [0.8, 0.4, 0.8 * 0.25**0.75]),
    ],
)
def test_schedules_of_the_ratio(ratio, expected):
    pair, hub = make_pair(), MessageHub.get_current_instance()
    bounds = dict(bounds=(0.2, 0.8)) if isinstance(ratio, str) else {}
    stage, seen = ready(pair, ratio=ratio, **bounds), []
    try:
        for done in (0, 10, 15):
            for name, value in dict(iter=done, max_iters=20).items():
                hub.update_info(name, value)
            seen.append(float(stage(make_pair()).logs['ratio_0']))
    finally:
        hub.runtime_info.clear()
    assert seen == pytest.approx(expected)


def test_random_ratios_stay_within_the_bounds_and_change():
    stage = ready(make_pair(), ratio='random', bounds=(0.3, 0.6))
    seen = [float(stage(make_pair()).logs['ratio_0']) for _ in range(50)]
    assert 0.3 <= min(seen) < 0.36 and 0.54 < max(seen) <= 0.6


def test_cosine_compares_equal_widths():
    shapes = ((4, 6, 8, 8),)
    pair = make_pair(shapes, shapes)
    stage = ready(pair, ratio='cosine')
    expected = torch.nn.functional.cosine_similarity(
        pair.student[0].flatten(1), pair.teacher[0].flatten(1)
    ).mean()
    torch.testing.assert_close(stage(pair).logs['cosine_0'], expected.detach())
    with pytest.raises(ConfigError, match='two widths'):
        ready(make_pair(), ratio='cosine')


def test_energy_gives_the_teachers_strongest_positions():
    pair = make_pair(((2, 4, 4, 4),), ((2, 6, 4, 4),))
    pair.teacher[0][:, :, 1, 2] = 30.0
    stage = ready(pair, ratio=0.07, positions='energy')  # one of 16
    order = stage._order(pair.teacher[0], stage.nets['0'], 0)
    assert order[:, 0].tolist() == [6, 6]
    assert order.sort(1).values.tolist() == [list(range(16))] * 2


def test_random_positions_differ_by_image_and_step_and_repeat_by_seed():
    def orders():
        stage = ready(make_pair(), seed=3)
        out = []
        for _ in range(2):
            out += list(stage._order(torch.zeros(2, 6, 8, 8), stage.nets['0'], 0))
            stage(make_pair())
        return torch.stack(out)

    first = orders()
    assert len({tuple(o.tolist()) for o in first}) == 4
    torch.rand(5)
    assert torch.equal(first, orders())


# ---- in a link ------------------------------------------------------------------


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
