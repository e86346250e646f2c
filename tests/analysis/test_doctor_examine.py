"""What the doctor says it has looked at."""

import sys

import pytest
from conftest import ROOT
from mmengine.config import Config

from kd_mm.analysis.doctor import examine
from kd_mm.analysis.doctor.patient import reduced

DIGITS = ROOT / 'configs/kd_cls/digits'
KD = dict(
    student='head.fc',
    teacher='head.fc',
    criterion=dict(type='kd_mm.KDLoss', tau=4.0, weight=0.5),
)


@pytest.mark.parametrize(
    ('links', 'says'),
    [
        ('kd', 'kd: logits KDLoss head.fc <- head.fc, share 0.8'),
        (None, 'auto: features '),
        (dict(logits=KD), ''),
    ],
)
def test_links_found_by_a_name_are_told(monkeypatch, links, says):
    cfg = Config.fromfile(DIGITS / 'resnet20_resnet8_sokd.py')
    cfg.model.teacher = dict(config=str(DIGITS / 'resnet8.py'), allow_random=True)
    del cfg.model['links']
    if links:
        cfg.model.links = links
    monkeypatch.setattr(sys.modules[examine.__module__], 'CHECKS', ())
    rows = [f for f in examine(cfg, images=8, steps=4) if f.check == 'links']
    assert len(rows) == bool(says)
    assert all(row.verdict == 'fine' and row.text.startswith(says) for row in rows)


def test_a_trained_student_is_looked_at_as_it_is_whatever_it_began_with():
    """What it inherited would be refused beside its checkpoint."""
    cfg = Config(dict(model=dict(type='kd_mm.Distill', inherit=['neck'])))
    assert 'inherit' not in reduced(cfg, '.', student='a.pth', images=8).model
    assert reduced(cfg, '.', student=None, images=8).model.inherit == ['neck']
