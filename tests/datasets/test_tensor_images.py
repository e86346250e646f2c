"""TensorImages: the same data as the usual pipeline, a batch at a time."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
import toys
from helpers import distill_cfg
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner, set_random_seed
from mmpretrain.datasets import RandomCrop, RandomFlip

from kd_mm.datasets import RepackedCIFAR, TensorImages, ready_batch
from kd_mm.errors import ConfigError

PACK = [dict(type='PackInputs')]


def digits(**kwargs):
    return dict(type='kd_mm.DigitImages', pipeline=PACK, size=12, **kwargs)


def build(**kwargs) -> TensorImages:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return TensorImages(**(dict(dataset=digits(), device='cpu') | kwargs))


def test_without_augmentation_it_is_the_data_set_itself():
    fast = build()
    indices = [5, 0, 17, 5]
    batch = fast.__getitems__(indices)
    assert batch['inputs'].dtype == torch.uint8 and len(fast) == 600
    for image, sample, index in zip(batch['inputs'], batch['data_samples'], indices):
        item = fast.dataset[index]
        assert torch.equal(image, item['inputs'])
        assert torch.equal(sample.gt_label, item['data_samples'].gt_label)
        assert sample.sample_idx == item['data_samples'].sample_idx == index
    one = fast[17]
    assert torch.equal(one['inputs'], batch['inputs'][2])
    assert fast.metainfo['classes'] == tuple('0123456789')


def views(image, pad):
    """Every crop, plain and mirrored, by its bytes."""
    size = image.shape[1]
    padded = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)))
    out = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            part = padded[:, top : top + size, left : left + size]
            for mirrored in (False, True):
                key = (part[..., ::-1] if mirrored else part).tobytes()
                out[key] = (top, left, mirrored)
    return out


def test_crops_and_flips_are_distributed_as_those_of_the_pipeline():
    pad, draws = 1, 5400
    fast = build(crop=pad, flip=0.5)
    known = views(fast.dataset[3]['inputs'], pad)
    assert len(known) == 18  # this image has no two equal views
    set_random_seed(0)
    batch = fast.__getitems__([3] * draws)['inputs']
    ours = Counter(known[image.numpy().tobytes()] for image in batch)
    slow = [RandomCrop(12, padding=pad), RandomFlip(prob=0.5)]
    theirs: Counter = Counter()
    picture = fast.dataset.get_data_info(3)['img']
    for _ in range(draws):
        results = dict(img=picture.copy(), img_shape=(12, 12))
        for step in slow:
            results = step(results)
        theirs[known[results['img'].transpose(2, 0, 1).tobytes()]] += 1
    assert set(ours) == set(theirs) == set(known.values())
    expected = draws / 18
    for counts in (ours, theirs):  # chi-square, 17 degrees of freedom, p = 0.0001
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 46


def test_images_of_a_batch_are_drawn_one_by_one():
    fast = build(crop=2, flip=0.5)
    batch = fast.__getitems__([3] * 64)['inputs']
    assert len({image.numpy().tobytes() for image in batch}) > 20


def test_a_seed_gives_the_same_batches():
    fast, found = build(crop=2, flip=0.5), []
    for seed in (1, 1, 2):
        set_random_seed(seed)
        found.append(fast.__getitems__(list(range(20)))['inputs'])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


class Uneven(BaseDataset):
    """Two images of different sizes."""

    def load_data_list(self):
        sizes = ((8, 8), (8, 9))
        return [dict(img=np.zeros((*s, 3), np.uint8), gt_label=0) for s in sizes]


def test_refuses_what_is_no_tensor(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, 'Uneven', Uneven)
    with pytest.raises(ConfigError, match='one size; item 1'):
        build(dataset=dict(type='mmengine.Uneven', pipeline=PACK))
    with pytest.raises(ConfigError, match='flip'):
        build(flip=2.0)


def test_workers_and_an_accelerator_do_not_go_together(monkeypatch):
    fast = build()
    fast.device = torch.device('cuda')
    monkeypatch.setattr('kd_mm.datasets.tensor_images.get_worker_info', lambda: 1)
    with pytest.raises(ConfigError, match='num_workers=0'):
        fast.__getitems__([0])


def runner(work_dir, *, epochs=2, student=None, **extra) -> Runner:
    def loader(split, **kwargs):
        images = dict(type='kd_mm.TensorImages', dataset=digits(split=split))
        return dict(
            dataset=dict(images, device='cpu', **kwargs),
            batch_size=100,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
            collate_fn=dict(type='kd_mm.ready_batch'),
        )

    student = student or toys.classifier(classes=10)
    links = dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            stages=[dict(type='kd_mm.ChannelAlign', fit_at=1)],
            criterion=dict(type='kd_mm.PKDLoss'),
        )
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=distill_cfg(student, toys.classifier(classes=10), links),
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            train_dataloader=loader('train', crop=1, flip=0.5),
            val_cfg=dict(),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name=f'{work_dir.name}-{id(work_dir)}',
        )
    )
    cfg.merge_from_dict(extra)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('mixed', [False, True])
def test_a_distilled_run_with_kcd_trains_on_it(tmp_path, mixed):
    student = copy.deepcopy(toys.classifier(classes=10))
    if mixed:
        student.data_preprocessor.batch_augments = dict(
            augments=dict(type='Mixup', alpha=0.8)
        )
    run = runner(tmp_path, student=student, epochs=3)
    run.train()
    history = run.message_hub.get_scalar('train/loss_kd_map').data[0]
    assert history[-1] < max(history)
    assert run.message_hub.get_scalar('val/accuracy/top1').current() > 10
    stage = run.model.distiller.links['map'].stages[0]
    assert int(stage.fitted_at) >= 0  # the map was fitted on plain images


def test_samplers_of_several_ranks_share_the_images():
    from mmengine.dataset import DefaultSampler

    fast, seen = build(), []
    for rank in range(2):
        sampler = DefaultSampler(fast, shuffle=True, seed=0)
        sampler.rank, sampler.world_size = rank, 2
        sampler.num_samples = 300
        batch = ready_batch(fast.__getitems__(list(sampler)))
        seen += [sample.sample_idx for sample in batch['data_samples']]
    assert sorted(seen) == list(range(600))


def test_repacked_cifar_reads_pickles_without_checksums(tmp_path):
    import pickle

    folder = tmp_path / 'cifar-10-python'
    folder.mkdir()
    images = np.random.randint(0, 256, (4, 3072), dtype=np.uint8)
    for split in ('train', 'test'):
        content = dict(data=images, labels=[0, 1, 1, 0])
        (folder / split).write_bytes(pickle.dumps(content))
    (folder / 'meta').write_bytes(pickle.dumps(dict(label_names=['cat', 'dog'])))
    data = RepackedCIFAR(data_root=str(tmp_path), folder='cifar-10-python')
    assert data.metainfo['classes'] == ('cat', 'dog') and len(data) == 4
    info = data.get_data_info(2)
    assert info['gt_label'] == 1
    expected = images[2].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(info['img'], expected)
