"""The probe that ranks teachers."""

import pytest
import torch
import toys
from helpers import blotchy_batches, build, distill_cfg

from kd_mm.analysis.teachers import Rating, collect, draw, probe, ranked, write_json
from kd_mm.errors import ConfigError

CPU = torch.device('cpu')


def features(kind: str, *, batches: int = 8, seed: int = 0):
    """Batches of one level: a teacher that the student explains, or noise."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 4, generator=generator)
    out = []
    for _ in range(batches):
        student = torch.randn(4, 4, 8, 8, generator=generator)
        teacher = torch.einsum('tc,nchw->nthw', mix, student)
        noise = teacher.std() * torch.randn(teacher.shape, generator=generator)
        out.append([(student, noise if kind == 'noise' else 5 * teacher + 3)])
    return out


def test_a_teacher_that_the_student_explains_comes_first():
    near, foreign = (
        probe(features(kind), steps=250, seed=0, device=CPU)
        for kind in ('near', 'noise')
    )
    assert near[0] < 0.6 < 0.9 < foreign[0]
    assert near[1] > 0.5 > foreign[1] + 0.3
    assert near[2] < foreign[2]


def test_the_probe_is_the_same_every_time_and_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    first = probe(features('near'), steps=5, seed=3, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert probe(features('near'), steps=5, seed=3, device=CPU) == first
    assert probe(features('near'), steps=5, seed=4, device=CPU) != first


def test_features_are_those_of_the_frozen_networks():
    link = dict(
        student='neck',
        teacher='neck',
        levels=[0, 1],
        criterion=dict(type='kd_mm.ATLoss'),
    )
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24), dict(fpn=link))
    model = build(cfg)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = collect(model, blotchy_batches(3))
    assert len(batches) == 3 and model.training
    shapes = [(tuple(s.shape), tuple(t.shape)) for s, t in batches[0]]
    assert shapes[0] == ((2, 16, 16, 16), (2, 24, 16, 16)) and len(shapes) == 2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_probed_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match='too few'):
        probe(features('near', batches=1), steps=2, seed=0, device=CPU)
    vectors = [[(torch.randn(4, 3), torch.randn(4, 3))]] * 4
    with pytest.raises(ConfigError, match='maps of equal size'):
        probe(vectors, steps=2, seed=0, device=CPU)
    monkeypatch.setattr('kd_mm.analysis.teachers.MEMORY', 1000)
    link = dict(student='neck', teacher='neck', criterion=dict(type='kd_mm.ATLoss'))
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), dict(fpn=link))
    with pytest.raises(ConfigError, match='fewer --images'):
        collect(build(cfg), blotchy_batches(1))


def test_ranking_is_by_error_and_goes_to_files(tmp_path):
    ratings = [
        Rating('big', 0.7, 0.3, 0.7, 40.0, 0.4),
        Rating('near', 0.2, 0.6, 0.4, 20.0),
    ]
    assert [r.teacher for r in ranked(ratings)] == ['near', 'big']
    write_json(ratings, tmp_path / 'a.json', images=5)
    assert '"images": 5' in (tmp_path / 'a.json').read_text()
    draw(ratings, tmp_path / 'a.png')
    assert (tmp_path / 'a.png').stat().st_size > 5000
