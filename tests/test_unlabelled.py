"""Images without labels: links run on them, the task does not."""

import copy

import pytest
import query_toys
import torch
import toys
from helpers import PackedImages, build, detection_batch, distill_cfg, fitnet, losses_of
from helpers import runner as make_runner
from mmengine.hooks import Hook
from mmengine.registry import DATASETS

import kd_mm.utils.amp  # noqa: F401  registers CPUAmpOptimWrapper
from kd_mm.errors import ConfigError
from kd_mm.hooks.unlabelled import Stream

TEACHER = toys.retinanet(width=24)


@DATASETS.register_module()
class BareImages(PackedImages):
    """Images whose samples say nothing but their sizes."""

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        item['inputs'] = item['inputs'].flip(2)
        for name in list(item['data_samples'].all_keys()):
            if name not in item['data_samples'].metainfo_keys():
                delattr(item['data_samples'], name)
        return item


def loader(count: int = 10, batch: int = 3, **kwargs) -> dict:
    return dict(
        dataset=dict(type='mmengine.BareImages', count=count),
        batch_size=batch,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
        **kwargs,
    )


def run(links=None, *args, **kwargs):
    kwargs.setdefault('unlabelled_dataloader', loader())
    return make_runner(distill_cfg(toys.retinanet(), TEACHER, links), *args, **kwargs)


def images(count: int = 3) -> dict:
    batch = detection_batch(count)
    for sample in batch['data_samples']:
        del sample.gt_instances
    return batch


def test_links_run_on_them_as_on_the_others():
    model = build(distill_cfg(toys.retinanet(), TEACHER))
    labelled, bare = detection_batch(), images()
    plain = losses_of(copy.deepcopy(model), labelled)
    model.distiller.unlabelled = bare
    twin = copy.deepcopy(model)
    losses = losses_of(model, labelled)
    assert model.distiller.unlabelled is None
    assert losses.keys() - plain.keys() == {'loss_kd_fpn_unlabelled'}
    assert all(torch.equal(losses[k], v) for k, v in plain.items() if 'loss_' in k
               and torch.is_tensor(v))  # fmt: skip
    # the same value as on a batch that has labels
    with_labels = detection_batch(3)
    expected = losses_of(twin, labelled) and losses_of(twin, with_labels)
    got = losses['loss_kd_fpn_unlabelled']
    assert float(got) == pytest.approx(float(expected['loss_kd_fpn']), rel=1e-4)
    got.backward()
    assert model.neck.lateral_convs[0].conv.weight.grad.abs().max() > 0
    assert model.bbox_head.retina_cls.weight.grad is None


@pytest.mark.parametrize('student', [query_toys.deformable_detr(), query_toys.dino()])
def test_a_detr_reads_no_boxes_of_images_without_them(student):
    """In training they fill their heads for a loss, and DINO denoises true boxes."""
    link = dict(student='bbox_head', teacher='bbox_head')
    link['stages'] = [dict(type='kd_mm.MatchQueries', threshold=0.0)]
    link['criterion'] = dict(
        type='kd_mm.HeadLoss',
        classes=dict(type='kd_mm.QFLLoss'),
        boxes=dict(type='kd_mm.BoxLoss', form='cxcywh'),
    )
    model = build(distill_cfg(student, student, dict(queries=link)))
    model.distiller.unlabelled = images()
    losses = losses_of(model, detection_batch())
    assert float(losses['loss_kd_queries_unlabelled']) > 0 and model.training


@pytest.mark.parametrize('images', ['labelled', 'unlabelled'])
def test_a_link_runs_only_where_it_shall(images):
    links = fitnet() | dict(other=fitnet(images=images)['fpn'])
    model = build(distill_cfg(toys.retinanet(), TEACHER, links))
    model.distiller.unlabelled = detection_batch()
    losses = losses_of(model, detection_batch())
    assert (float(losses['loss_kd_other']) > 0) == (images == 'labelled')
    assert ('loss_kd_other_unlabelled' in losses) == (images == 'unlabelled')


def test_a_stream_goes_on_where_it_was():
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            return index

    from mmengine.dataset import DefaultSampler, InfiniteSampler

    for kind in (DefaultSampler, InfiniteSampler):

        def batches(done, count, kind=kind):
            items = Items()
            sampler = kind(items, shuffle=True, seed=3)
            stream = Stream(
                torch.utils.data.DataLoader(items, batch_size=2, sampler=sampler), done
            )
            return [next(stream).tolist() for _ in range(count)]

        before = torch.get_rng_state()
        whole = batches(0, 12)
        assert torch.equal(before, torch.get_rng_state())
        assert {i for batch in whole[:4] for i in batch} == set(range(7))
        assert whole[:4] != whole[4:8]
        for done in (1, 4, 6, 9):
            assert batches(done, 12 - done) == whole[done:]


class Interrupt(Hook):
    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


AMP = dict(optim_wrapper=dict(type='CPUAmpOptimWrapper', accumulative_counts=2))


@pytest.mark.parametrize('extra', [{}, AMP], ids=['plain', 'amp, accumulating'])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, extra):
    whole = run(None, tmp_path / 'whole', epochs=2, **extra)
    whole.train()
    first = run(None, tmp_path / 'parts', epochs=2, **extra)
    first.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = run(None, tmp_path / 'parts', epochs=2, resume=True, **extra)
    second.train()
    expected, got = (r.model.state_dict() for r in (whole, second))
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    # the gradient's share is measured beside the task's, not repeated for these
    names = whole.message_hub.log_scalars
    assert any(name.endswith('_share') for name in names)
    assert not any(name.endswith('_share_unlabelled') for name in names)
    log = whole.message_hub.get_scalar('train/loss_kd_fpn_unlabelled')
    assert len(log.data[0]) == 8 and float(log.current()) > 0


def test_zero_weights_leave_the_baseline(tmp_path):
    plain = make_runner(toys.retinanet(), tmp_path / 'plain', epochs=1)
    plain.train()
    off = run(fitnet(weight=0.0), tmp_path / 'off', epochs=1)
    off.train()
    state = off.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.model.state_dict().items())


FGD = dict(type='kd_mm.FGDLoss')
DAM = dict(type='kd_mm.DAM', supervision='gt', hidden=4)


@pytest.mark.parametrize(
    ('links', 'extra', 'match'),
    [
        (fitnet() | dict(y=dict(student='neck', teacher='neck', criterion=FGD,
                                stages=[dict(type='kd_mm.ConvAdapter')])), {},
         "links.y: FGDLoss reads the ground truth.*links.y.images='labelled'"),
        (dict(x=dict(student='neck', teacher='neck',
                     stages=[dict(type='kd_mm.ConvAdapter'), DAM],
                     criterion=dict(type='kd_mm.MSELoss'))), {},
         'links.x: DAM reads the ground truth'),
        (fitnet(images='labelled'), {}, 'so none uses it'),
        (fitnet(images='unlabelled'), dict(unlabelled_dataloader=None),
         "links.fpn.images='unlabelled' needs unlabelled_dataloader"),
        (fitnet(images='unlabelled', share=0.5), {},
         "links.fpn.share is measured beside the task's gradient"),
    ],
)  # fmt: skip
def test_what_they_cannot_serve_is_said(tmp_path, links, extra, match):
    with pytest.raises(ConfigError, match=match):
        run(links, tmp_path, epochs=1, **extra).train()
