"""The last batch of an epoch may be one image: every part of a link takes it."""

import pytest
import torch
import toys
from helpers import distill_cfg, runner
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from kd_mm.criteria.base import Criterion
from kd_mm.errors import ConfigError
from kd_mm.link import Link
from kd_mm.pair import FeaturePair
from kd_mm.registry import MODELS
from kd_mm.schedule import Progress
from kd_mm.stages import ChannelAlign, Stage
from kd_mm.trial import trial_samples

FORMS = dict(map=(8, 8, 8), dot=(8, 1, 1), vector=(8,), tokens=(17, 8))
BN = dict(type='BN')

# Criterion and stages by name, and the features they take.
CRITERIA = dict(
    ATLoss=('map', 'dot', 'tokens'),
    CosineLoss=('map', 'dot', 'vector', 'tokens'),
    CRDLoss=('vector',),
    CWDLoss=('map', 'dot', 'tokens'),
    DISTLoss=('vector',),
    DKDLoss=('vector',),
    FGDLoss=('map', 'dot'),
    HCLLoss=('map', 'dot', 'vector'),
    KDLoss=('vector', 'map'),
    LDLoss=('map', 'dot'),
    MSELoss=('map', 'vector', 'tokens'),
    OFDLoss=('map', 'dot'),
    PKDLoss=('map', 'dot', 'vector', 'tokens'),
    PatchSimilarityLoss=('map', 'tokens'),
    QFLLoss=('map', 'dot'),
    SPLoss=('map', 'vector', 'tokens'),
)
OPTIONS = dict(CRDLoss=dict(images=20, negatives=16, dim=8))
STAGES = dict(
    ChannelAlign=(dict(), ('map', 'dot', 'vector', 'tokens')),
    ConvAdapter=(dict(layers=2, norm_cfg=BN), ('map', 'dot', 'vector', 'tokens')),
    DAFA=(dict(start=0), ('map', 'dot', 'vector', 'tokens')),
    DAM=(dict(supervision='gt'), ('map', 'dot')),
    DPK=(dict(encoder=(8, 1, 2), decoder=(8, 1, 2)), ('map', 'dot')),
    MGD=(dict(), ('map', 'dot')),
    OFD=(dict(), ('map', 'dot')),
    Resize=(dict(), ('map', 'dot')),
    ReviewKD=(dict(), ('map', 'dot', 'vector')),
    TokensToMap=(dict(), ('tokens',)),
)
# What heads say: there are as many regions, queries and places as there are, each
# counts for itself (tests/stages/, tests/criteria/test_heads.py).
OF_HEADS = {
    *('BoxL1Loss', 'BoxLoss', 'BoxRegions', 'CrossKD', 'HeadLoss', 'MatchMoments'),
    *('MatchQueries', 'TeacherRoIs'),
}
# reads more than one teacher (tests/test_several_teachers.py)
SEVERAL = {'MergeTeachers'}
CASES = [
    *(([], name, form) for name, forms in CRITERIA.items() for form in forms),
    *(
        ([dict(type=f'kd_mm.{name}', **options)], 'MSELoss', form)
        for name, (options, forms) in STAGES.items()
        for form in forms
    ),
]
# Those that say nothing about one image.
EMPTY = {
    ('DISTLoss', 'vector'),
    ('PKDLoss', 'dot'),
    ('PKDLoss', 'vector'),
    ('SPLoss', 'map'),
    ('SPLoss', 'vector'),
    ('SPLoss', 'tokens'),
    ('ConvAdapter', 'dot'),
    ('ConvAdapter', 'vector'),
    ('OFD', 'dot'),
    ('ReviewKD', 'dot'),
    ('ReviewKD', 'vector'),
}


def test_every_part_is_tried():
    parts = [  # not those that other tests have registered
        (name, part)
        for name, part in MODELS.module_dict.items()
        if part.__module__.startswith('kd_mm.')
    ]
    criteria = {n for n, part in parts if _is(part, Criterion)}
    stages = {n for n, part in parts if _is(part, Stage)}
    assert criteria | stages == {*CRITERIA, *STAGES, *OF_HEADS, *SEVERAL}


def _is(part, kind) -> bool:
    return isinstance(part, type) and issubclass(part, kind)


def features(form: str) -> FeaturePair:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, *FORMS[form]).unbind()
    samples = trial_samples(4, (64, 64))
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_idx=i))
    return FeaturePair(
        link='x',
        student=[student.requires_grad_()],
        teacher=[teacher],
        samples=samples,
        image_size=(64, 64),
        progress=Progress(0, 0, 9, 90),
    )


def link_of(stages: list, criterion: str, form: str) -> Link:
    cfg = dict(type=f'kd_mm.{criterion}', **OPTIONS.get(criterion, {}))
    with DefaultScope.overwrite_default_scope('mmdet'):
        link = Link(name='x', student='a', teacher='b', stages=stages, criterion=cfg)
    link.setup(features(form))
    for stage in link.stages:
        if isinstance(stage, ChannelAlign):
            stage._mark(0)
    return link


def one_of(form: str) -> FeaturePair:
    pair = features(form)
    single = pair.first(1)
    single.samples = pair.samples[:1]
    return single


@pytest.mark.parametrize(('stages', 'criterion', 'form'), CASES)
def test_every_part_takes_a_batch_of_one_image(stages, criterion, form, monkeypatch):
    warned = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', warned.append)
    link = link_of(stages, criterion, form)
    warned.clear()
    name = stages[0]['type'].removeprefix('kd_mm.') if stages else criterion
    empty = (name, form) in EMPTY
    assert (link.too_few_in_one == name) == empty
    for single in (False, True, True):
        out = link(one_of(form) if single else features(form), 1.0)
        # diagnostics carry no "loss" in their names: MMEngine would add them up
        assert all(
            key.startswith('loss_kd_x') or value.grad_fn is None
            for key, value in out.items()
        )
        losses = [value for key, value in out.items() if 'loss' in key]
        assert all(loss.isfinite() for loss in losses)
        if single and empty:
            assert set(out) == {'loss_kd_x'} and float(out['loss_kd_x']) == 0
    assert len([text for text in warned if 'says nothing' in text]) == empty


def run(folder, criterion: str, *, count: int, batch: int, form='neck'):
    link = dict(student=form, teacher=form, criterion=dict(type=f'kd_mm.{criterion}'))
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), dict(x=link))
    loader = dict(dataset=dict(count=count), batch_size=batch)
    return runner(cfg, folder, epochs=1, train_dataloader=loader)


def test_an_epoch_that_ends_with_one_image_ends_well(tmp_path):
    one = run(tmp_path, 'SPLoss', count=3, batch=2)
    one.train()
    losses = one.message_hub.get_scalar('train/loss_kd_x').data[0]
    assert losses[0] > 0 and losses[1] == 0


def test_batches_that_are_all_of_one_image_are_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match='links.x: SPLoss says nothing.*batch_size'):
        run(tmp_path / 'a', 'SPLoss', count=3, batch=1).train()
    run(tmp_path / 'b', 'PKDLoss', count=1, batch=1).train()
