"""What only an accelerator shows; on a CPU the same steps are taken, without it.

``make gpu-check`` runs these and the cost of every method on whatever card is there.
"""

import copy
import socket
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import toys
from helpers import (
    DEVICES,
    GPU,
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    fitnet,
)
from mmengine.optim import build_optim_wrapper
from torch.nn.parallel import DistributedDataParallel

import kd_mm.utils.amp  # noqa: F401  registers CPUAmpOptimWrapper
from kd_mm.distiller import Distiller
from kd_mm.stages import ChannelAlign
from kd_mm.teachers import Teachers


def stage(name: str, **options) -> dict:
    return dict(type=f'kd_mm.{name}', **options)


def link(criterion: str, *stages: dict, tap: str = 'neck', **more) -> dict:
    own = dict(student=tap, teacher=tap, stages=list(stages), **more)
    return dict(x=dict(own, criterion=dict(type=f'kd_mm.{criterion}')))


ADAPTER = stage('ConvAdapter')
SMALL_DPK = stage('DPK', encoder=(8, 1, 2), decoder=(8, 1, 2))
HEAD = dict(tap='head.fc')
MAP = dict(tap='backbone')
# of classifiers the whole step is watched
CLASSIFIERS = {
    'KD': link('KDLoss', **HEAD),
    'DKD': link('DKDLoss', **HEAD),
    'DIST': link('DISTLoss', **HEAD),
    'FitNet': link('MSELoss', ADAPTER, **MAP),
    'FitNet share': link('MSELoss', ADAPTER, share=0.5, **MAP),
    'AT': link('ATLoss', **MAP),
    'SP': link('SPLoss', **MAP),
    'PKD': link('PKDLoss', **MAP),
    'CWD': link('CWDLoss', **MAP),
    'MGD': link('MSELoss', stage('MGD'), **MAP),
    'OFD': link('OFDLoss', stage('OFD'), **MAP),
    'ReviewKD': link('HCLLoss', stage('ReviewKD'), **MAP),
    'cosine': link('CosineLoss', **MAP),
    'KCD': link('PKDLoss', stage('ChannelAlign'), **MAP),
    'DAFA': link('MSELoss', stage('DAFA', start=0, search_epochs=2), **MAP),
    'DAM': link('MSELoss', stage('DAM'), **MAP),
    'DPK': link('MSELoss', SMALL_DPK, **MAP),
}
# of detectors what is ours: their own assignment of boxes waits
DETECTORS = {
    'FitNet': link('MSELoss', ADAPTER),
    'FGD': link('FGDLoss'),
    'KCD': link('CWDLoss', stage('ChannelAlign', share=True)),
    'DAM by boxes': link('MSELoss', stage('DAM', supervision='gt')),
    'DAFA': link('MSELoss', stage('DAFA', start=0, search_epochs=2)),
    'DPK': link('MSELoss', SMALL_DPK),
}


@pytest.fixture
def exact(monkeypatch):
    """No TF32 in convolutions: its rounding is larger than what is compared here."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@contextmanager
def no_waiting(device: str):
    """An error where the host waits for the device."""
    if device == 'cuda':
        torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')


def ready(cfg: dict, batch: dict, device: str):
    """A model on the device, and a batch as it gets it."""
    model = build(cfg).to(device)
    for part in model.distiller.links['x'].stages:
        if isinstance(part, ChannelAlign):
            part._mark(0)  # any map will do
    return model, model.data_preprocessor(copy.deepcopy(batch), True)


def step(model, data, optimizer) -> None:
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.distiller.settle()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_no_step_of_a_classifier_waits(name, device):
    model, data = ready(
        distill_cfg(toys.classifier(), toys.classifier(), CLASSIFIERS[name]),
        classification_batch(),
        device,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(2):  # what is built once, and first kernels
        step(model, data, optimizer)
    with no_waiting(device):
        for _ in range(3):
            step(model, data, optimizer)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', DETECTORS)
def test_nothing_of_ours_waits_in_a_detectors_step(name, device, monkeypatch):
    model, data = ready(
        distill_cfg(toys.retinanet(), toys.retinanet(), DETECTORS[name]),
        detection_batch(),
        device,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(2):
        step(model, data, optimizer)
    calls = []

    def watched(kind, method):
        original = getattr(kind, method)

        def call(*args, **kwargs):
            calls.append(method)
            with no_waiting(device):
                return original(*args, **kwargs)

        monkeypatch.setattr(kind, method, call)

    watched(Distiller, 'forward')
    watched(Teachers, '__call__')
    step(model, data, optimizer)
    assert sorted(calls) == ['__call__', 'forward']


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', ['FitNet share', 'KCD', 'DAFA', 'DAM', 'DPK'])
def test_half_precision_gives_finite_steps(name, device):
    model, data = ready(
        distill_cfg(toys.classifier(), toys.classifier(), CLASSIFIERS[name]),
        classification_batch(),
        device,
    )
    kind = 'AmpOptimWrapper' if device == 'cuda' else 'CPUAmpOptimWrapper'
    wrapper = build_optim_wrapper(
        model, dict(type=kind, optimizer=dict(type='SGD', lr=1e-3))
    )
    before = [p.detach().clone() for p in model.backbone.parameters()]
    for _ in range(3):
        with wrapper.optim_context(model):
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        wrapper.update_params(loss)
        model.distiller.settle()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not all(map(torch.equal, before, model.backbone.parameters()))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'options',
    [
        dict(channels_last=True),
        dict(dtype='bf16', channels_last=True),
        pytest.param(dict(compile=True), marks=[pytest.mark.slow, *GPU.marks]),
    ],
    ids=str,
)
def test_a_faster_teacher_says_the_same(options, device, exact):
    found = []
    for said in ({}, options):
        cfg = distill_cfg(toys.retinanet(), toys.retinanet(), teacher_kwargs=said)
        model = build(cfg, seed=3).to(device)
        data = model.data_preprocessor(copy.deepcopy(detection_batch()), True)
        seen = model.distiller.teachers(data['inputs'], data['data_samples'], ['neck'])
        found.append(next(iter(seen.calls.values()))[0])
    for plain, fast in zip(*found, strict=True):
        allowed = 3e-2 if 'dtype' in options else 1e-4
        assert float((plain - fast).norm() / plain.norm()) < allowed


@pytest.mark.dist
@pytest.mark.parametrize('device', DEVICES)
def test_one_rank_has_the_gradients_of_none(device, exact):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), fitnet())
    alone, data = ready_plain(cfg, device)
    loss, _ = alone.parse_losses(alone(**data, mode='loss'))
    loss.backward()
    dist.init_process_group(
        'nccl' if device == 'cuda' else 'gloo',
        init_method=f'tcp://localhost:{port}',
        rank=0,
        world_size=1,
    )
    try:
        model, data = ready_plain(cfg, device)
        wrapped = DistributedDataParallel(model)
        loss, _ = model.parse_losses(wrapped(**data, mode='loss'))
        loss.backward()
    finally:
        dist.destroy_process_group()
    for one, other in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def ready_plain(cfg: dict, device: str):
    model = build(cfg).to(device)
    return model, model.data_preprocessor(classification_batch(), True)
