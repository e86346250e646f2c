"""Fitting: which images are read, and that nothing else is disturbed."""

import random

import numpy as np
import pytest
import torch
import toys
from helpers import PackedImages, blotchy_batches, build, distill_cfg
from mmengine.structures import InstanceData
from torch.utils.data import ConcatDataset, Subset

from kd_mm.errors import ConfigError
from kd_mm.stages.kcd import fit_channels
from kd_mm.unaugmented import (
    plain_dataset,
    plain_loader,
    plain_pipeline,
    spread,
    undisturbed,
)


def distilled(**align):
    """A detector with one ChannelAlign, ready to be fitted."""
    link = dict(
        student='neck',
        teacher='neck',
        levels=[0, 1],
        stages=[dict(type='kd_mm.ChannelAlign', **align)],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(base=16), dict(fpn=link))
    return build(cfg)


def align_of(model):
    return model.distiller.links.fpn.stages[0]


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) for key in left
    )


def test_modes_and_random_states_are_restored():
    model = distilled()
    model.backbone.layer1.eval()
    modes = [m.training for m in model.modules()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with undisturbed(model):
        assert not torch.is_grad_enabled() and not model.training
        random.random(), np.random.rand(), torch.rand(())
    data = blotchy_batches(2)
    torch.manual_seed(1)
    fit_channels(model, [align_of(model)], data)
    assert [m.training for m in model.modules()] == modes
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    for key, value in model.state_dict().items():
        assert 'distiller' in key or torch.equal(value, state[key]), key


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/init', rank=rank, world_size=world
        )
    model = distilled()
    torch.manual_seed(3)
    images = PackedImages(8)
    for i, item in enumerate(images.items):
        item['inputs'] = item['inputs'] // (i + 1)
    loader = plain_loader({}, images, images=None, annotations=False)
    fit_channels(model, [align_of(model)], loader)
    torch.save(align_of(model).state_dict(), f'{folder}/{world}-{rank}.pt')
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_fit_the_map_of_one(tmp_path):
    _rank(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(_rank, (2, str(tmp_path)), nprocs=2)
    one, first, second = (
        torch.load(tmp_path / f'{name}.pt') for name in ('1-0', '2-0', '2-1')
    )
    assert equal(one, first) and equal(first, second)


TRAIN = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
]
VAL = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


def config(**kwargs) -> dict:
    inner = dict(type='CocoDataset', pipeline=TRAIN)
    return dict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=inner)),
        val_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=VAL)),
        **kwargs,
    )


def test_the_pipeline_is_the_validations_with_boxes_before_resizing():
    types = [step['type'] for step in plain_pipeline(config(), True)]
    assert types == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackDetInputs']
    assert not plain_pipeline(config(), True)[1]['with_mask']
    types = [step['type'] for step in plain_pipeline(config(), False)]
    assert types == ['LoadImageFromFile', 'Resize', 'PackDetInputs']
    assert TRAIN[1]['with_mask'] and len(VAL) == 4  # the config is not changed
    with pytest.raises(ConfigError, match='without augmentation'):
        plain_pipeline(dict(train_dataloader=config()['train_dataloader']), False)


def test_wrappers_of_data_sets_are_opened():
    class Wrapped:
        def __init__(self, dataset):
            self.dataset = dataset
            self.pipeline = ['mixup']

    inner = PackedImages(3)
    assert plain_dataset(Wrapped(inner), {}, False) is inner
    both = plain_dataset(ConcatDataset([inner, Subset(inner, [0])]), {}, False)
    assert len(both) == 6


def test_a_subset_is_spread_over_the_set_and_the_same_every_time():
    chosen = spread(100, 10)
    assert chosen == spread(100, 10)
    assert [i // 10 for i in chosen] == list(range(10))
    assert spread(5, 10) == spread(5, None) == [0, 1, 2, 3, 4]


def test_instances_without_boxes_are_fine():
    model = distilled(similarity='class')
    data = blotchy_batches(3)
    data[0]['data_samples'][0].gt_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    fit_channels(model, [align_of(model)], data)
    assert align_of(model).ready
