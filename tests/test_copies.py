"""Copies of a distilled model: moved, cast, pickled, sent to another process."""

import copy
import io
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    train_steps,
)
from mmengine.model import ExponentialMovingAverage

from kd_mm.diagnostics import HostCopy

CASES = dict(
    detector=(toys.retinanet(), toys.retinanet(width=24), detection_batch),
    classifier=(toys.classifier(), toys.classifier(base=16), classification_batch),
)
every_case = pytest.mark.parametrize('name', CASES)


def case(name, **teacher):
    student, guide, batch = CASES[name]
    return build(distill_cfg(student, guide, teacher_kwargs=teacher)), batch()


def placed(model):
    teacher = model.distiller.teacher
    return {(t.dtype, t.device.type) for t in teacher.model.backbone.parameters()}


# ---- moved and cast -----------------------------------------------------------------


@every_case
@pytest.mark.parametrize(
    'change',
    [lambda m: m.half(), lambda m: m.double(), lambda m: m.to('meta')],
    ids=['half', 'double', 'moved'],
)
def test_a_changed_copy_leaves_the_teacher_where_it_is(name, change):
    model, batch = case(name)
    expected = train_steps(copy.deepcopy(model), batch)
    clone = change(copy.deepcopy(model))
    assert placed(model) == {(torch.float32, 'cpu')}
    assert train_steps(model, batch) == expected
    assert clone.distiller.teacher is model.distiller.teacher


def test_an_average_on_another_device_leaves_the_teacher_where_it_is():
    model, batch = case('detector')
    average = ExponentialMovingAverage(model, device='meta')  # as EMAHook builds it
    assert next(average.parameters()).is_meta
    assert placed(model) == {(torch.float32, 'cpu')}
    assert train_steps(model, batch, 1)[0]['loss_kd_fpn'] > 0


def test_the_only_copy_that_is_left_moves_the_teacher():
    model, _ = case('detector')
    clone = copy.deepcopy(model)
    del model
    assert placed(clone.double()) == {(torch.float64, 'cpu')}


def test_a_copy_that_trains_elsewhere_gets_the_teacher_there():
    model, _ = case('classifier')
    clone = copy.deepcopy(model).to('meta')
    teacher = clone.distiller.teacher
    inputs = torch.empty(2, 3, 64, 64, device='meta')
    seen = teacher(inputs, None, ['neck'])
    assert all(t.is_meta for t in seen.features(teacher.taps.taps['neck']))
    assert placed(model) == {(torch.float32, 'meta')}


# ---- pickled ------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize('teacher', [dict(), dict(compile=True), dict(dtype='bf16')])
def test_a_pickled_model_trains_on_as_the_original(name, teacher):
    model, batch = case(name, **teacher)
    compiles = teacher.get('compile')  # a step would take a minute
    if not compiles:
        train_steps(model, batch, 1)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    theirs = model.state_dict()
    for key, value in again.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    assert again.distiller.teacher is not model.distiller.teacher
    if not compiles:
        assert train_steps(again, batch) == train_steps(model, batch)
    assert placed(again.double()) == placed(model.double())


def test_a_whole_model_is_saved_and_read():
    model, batch = case('detector')
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert train_steps(again, batch) == train_steps(model, batch)


@pytest.mark.slow
def test_another_process_gets_the_model(tmp_path):
    """As ``spawn`` sends it: nothing of kd_mm is imported there before."""
    model, _ = case('detector')
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps(model))
    script = (
        'import pickle; from mmengine.runner import Runner; '
        'model = pickle.load(open("model.pkl", "rb")); '
        'print(type(model).__name__, hasattr(Runner.call_hook, "__wrapped__"))'
    )
    told = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split()[-2:] == ['DistilledRetinaNet', 'True']


# ---- to the host --------------------------------------------------------------------


class Elsewhere(SimpleNamespace):
    """A tensor on an accelerator that this machine does not have."""

    def detach(self):
        return self

    def cpu(self):
        return self.value


@pytest.mark.parametrize('device', ['mps', 'xpu', 'npu'])
def test_a_backend_without_events_gives_a_plain_copy(device, monkeypatch):
    if device == 'npu':  # not even a device of this torch
        kind = SimpleNamespace(type='npu')
    else:
        kind = torch.device(device)
    value = torch.arange(3.0)
    tensor = Elsewhere(value=value, device=kind, shape=value.shape, dtype=value.dtype)
    seen = HostCopy(tensor)
    assert torch.equal(seen.read(), value)
    assert torch.equal(copy.deepcopy(seen).read(), value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_an_accelerators_values_arrive():
    values = [torch.full((1000,), float(i), device='cuda') for i in range(100)]
    copies = [HostCopy(value * 2) for value in values]
    assert all(c._event is not None for c in copies)
    assert [float(c.read()[-1]) for c in copies] == [2.0 * i for i in range(100)]
    assert torch.equal(pickle.loads(pickle.dumps(copies[3])).read(), copies[3].read())
