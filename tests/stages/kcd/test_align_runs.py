"""ChannelAlign in a run: when it is fitted, what it leaves alone."""

import pytest
import torch
from align_toys import (
    STUDENT,
    TEACHER,
    Log,
    align_of,
    distilled,
    links,
    pair_of,
    stage_on,
)
from helpers import blotchy_batches, distill_cfg, losses_of, runner
from mmengine.hooks import Hook

from kd_mm.errors import ConfigError
from kd_mm.stages import ChannelAlign
from kd_mm.stages.kcd.moments import Covariance


def maps(model) -> dict:
    return {k: v.clone() for k, v in align_of(model).state_dict().items()}


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) for key in left
    )


# ---- when it is fitted ------------------------------------------------------------


def test_nothing_happens_before_it_is_fitted(monkeypatch):
    model = distilled()
    teacher = model.distiller.teacher.model
    monkeypatch.setattr(teacher, 'forward', lambda *a, **k: pytest.fail('ran'))
    with Log() as log:
        for _ in range(2):
            assert losses_of(model, blotchy_batches(1)[0])['loss_kd_fpn'] == 0
    (text,) = log.warnings()  # once
    assert 'not fitted' in text and 'fit_channels' in text


class Watch(Hook):
    """Loss of the link, and images it was fitted on, per iteration."""

    priority = 'LOW'

    def __init__(self):
        self.losses, self.maps = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss_kd_fpn'].item())
        self.maps.append(maps(runner.model))


def train(folder, *, epochs=2, watch=None, cfg=None, **kwargs):
    """Four iterations an epoch."""
    cfg = cfg or distill_cfg(STUDENT, TEACHER, links(**kwargs.pop('align', {})))
    run = runner(cfg, folder, epochs=epochs, **kwargs)
    if watch is not None:
        run.register_hook(watch)
    run.train()
    return run


@pytest.mark.parametrize('fit_at, first', [('start', 0), (1, 4)])
def test_fit_at_says_when_the_link_begins(tmp_path, fit_at, first):
    watch = Watch()
    train(tmp_path, watch=watch, align=dict(fit_at=fit_at))
    assert [loss > 0 for loss in watch.losses] == [i >= first for i in range(8)]
    assert all(equal(m, watch.maps[first]) for m in watch.maps[first:])


def test_controls_begin_when_a_fitted_map_would(tmp_path):
    watch = Watch()
    train(tmp_path, watch=watch, align=dict(transform='random', fit_at=1))
    assert [loss > 0 for loss in watch.losses] == [False] * 4 + [True] * 4


def test_iterations_count_where_asked(tmp_path):
    watch = Watch()
    train(tmp_path, watch=watch, epochs=1, align=dict(fit_at=2, by_epoch=False))
    assert [loss > 0 for loss in watch.losses] == [False, False, True, True]


def test_a_map_that_would_never_be_fitted_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match='fit_at=2 is never reached'):
        train(tmp_path, align=dict(fit_at=2))


def test_every_fits_again_in_the_first_half_of_training_only(tmp_path, monkeypatch):
    seen = []
    original = ChannelAlign.fit
    monkeypatch.setattr(
        ChannelAlign,
        'fit',
        lambda self, cov: (seen.append(int(self.fitted_at)), original(self, cov)),
    )
    train(tmp_path, epochs=6, align=dict(fit_at=0, every=1))
    assert seen == [-1, 0, 1]


def test_a_new_map_must_be_one_percent_better():
    pair = pair_of(4, 4)
    stage = stage_on(pair)
    rows = torch.randn(500, 4)
    noise = 0.5 * torch.randn(500, 4)
    for order, replaced in (([1, 0, 2, 3], True), ([1, 0, 2, 3], False)):
        before = stage.index_0.clone()
        stage.fit([Covariance.of(rows, rows[:, order] + noise)])
        assert replaced != torch.equal(stage.index_0, before)
    nearly = torch.stack([rows[:, 0], rows[:, 0] + 0.01 * noise[:, 0]], 1)
    two = stage_on(pair_of(2, 2))
    two.fit([Covariance.of(nearly, nearly)])
    before = two.index_0.clone()
    two.fit([Covariance.of(nearly, nearly.flip(1))])
    assert torch.equal(two.index_0, before)  # better, by much less


def test_no_link_weight_no_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(ChannelAlign, 'fit', lambda *a: pytest.fail('fitted'))
    cfg = distill_cfg(STUDENT, TEACHER, links(weight=0.0, fit_at=0))
    train(tmp_path, epochs=1, cfg=cfg)


# ---- what it leaves alone ---------------------------------------------------------


def test_a_fit_does_not_change_which_images_come(tmp_path):
    """Identity (never looks at data) and a fitted map train on the same batches."""

    class Order(Hook):
        def __init__(self):
            self.sums = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.sums += [int(x.sum()) for x in data_batch['inputs']]

    seen = []
    for name in ('identity', 'bipartite'):
        order = Order()
        train(tmp_path / name, watch=order, align=dict(transform=name))
        seen.append(order.sums)
    assert seen[0] == seen[1]


def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch):
    whole, second = Watch(), Watch()
    run = train(tmp_path / 'a', epochs=3, watch=whole, align=dict(fit_at=1))
    monkeypatch.setattr(ChannelAlign, 'fit', lambda *a: pytest.fail('fitted again'))
    cfg = distill_cfg(STUDENT, TEACHER, links(fit_at=1))
    again = runner(cfg, tmp_path / 'b', epochs=3)
    again._resume, again._load_from = True, str(tmp_path / 'a' / 'epoch_2.pth')
    again.register_hook(second)
    again.train()
    assert second.losses == whole.losses[8:]
    assert equal(maps(again.model), maps(run.model))
    for key, value in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key


def test_a_new_run_from_a_checkpoint_fits_its_own_map(tmp_path):
    train(tmp_path / 'a', align=dict(fit_at=0))
    watch = Watch()
    path = str(tmp_path / 'a' / 'epoch_2.pth')
    train(tmp_path / 'b', watch=watch, load_from=path, align=dict(fit_at=1))
    assert [loss > 0 for loss in watch.losses] == [False] * 4 + [True] * 4
