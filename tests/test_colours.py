"""A teacher that sees the colours that a photograph came with."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from helpers import build, detection_batch, distill_cfg, losses_of
from helpers import runner as make_runner
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, TRANSFORMS

from kd_mm.colours import FIELD, TwoColours, plain_batch, prepare, split_colours
from kd_mm.errors import ConfigError

SIZE = (40, 56)
GEOMETRY = [
    dict(type='RandomResize', scale=[(60, 40), (90, 60)], keep_ratio=True),
    dict(type='mmdet.RandomCrop', crop_size=(32, 48), allow_negative_crop=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.RandomErasing', n_patches=2, ratio=0.2),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_shape', 'ori_shape')),
]
COLOUR = dict(type='mmdet.PhotoMetricDistortion')


@TRANSFORMS.register_module()
class Photo(BaseTransform):
    """An image with boxes, as loaded."""

    def transform(self, results: dict) -> dict:
        from mmdet.structures.bbox import HorizontalBoxes

        chance = np.random.RandomState(results['sample_idx'])
        image = chance.randint(0, 255, (*SIZE, 3), dtype=np.uint8)
        results.update(img=image, img_shape=SIZE, ori_shape=SIZE)
        results['gt_bboxes'] = HorizontalBoxes(torch.tensor([[4.0, 4.0, 30.0, 30.0]]))
        results['gt_bboxes_labels'] = np.array([1])
        results['gt_ignore_flags'] = np.array([False])
        return results


@DATASETS.register_module()
class Photos(BaseDataset):
    """Such images."""

    def __init__(self, count: int = 8, **kwargs) -> None:
        self.count = count
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return [{} for _ in range(self.count)]


def seeded(call, seed: int):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return call()


def compose(*steps) -> Compose:
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        return Compose([dict(type='mmengine.Photo'), *steps])


@pytest.mark.parametrize('seed', range(6))
def test_only_colours_differ_and_the_student_sees_what_it_always_did(seed):
    def both(*steps):
        pipeline = compose(*steps)
        pipeline.transforms[1:] = [TwoColours(pipeline.transforms[1:])]
        return seeded(lambda: pipeline(dict(sample_idx=3)), seed)

    alone = seeded(lambda: compose(COLOUR, *GEOMETRY)(dict(sample_idx=3)), seed)
    after = torch.rand(3), np.random.rand(), random.random()
    got = both(COLOUR, *GEOMETRY)
    assert after[1] == np.random.rand() and after[2] == random.random()
    assert torch.equal(after[0], torch.rand(3))
    assert torch.equal(got['inputs'], alone['inputs'])
    sample = got['data_samples']
    assert torch.equal(sample.gt_instances.bboxes.tensor,
                       alone['data_samples'].gt_instances.bboxes.tensor)  # fmt: skip
    assert sample.get(FIELD).shape == got['inputs'].shape
    assert not torch.equal(sample.get(FIELD).float(), got['inputs'].float())


class Invert:
    """A colour transform that draws no numbers."""

    def __call__(self, results: dict) -> dict:
        return results | dict(img=255 - results['img'])


@pytest.mark.parametrize('seed', range(4))
def test_the_second_image_is_that_of_the_pipeline_without_colours(seed):
    pipeline = compose(*GEOMETRY)
    plain = seeded(lambda: pipeline(dict(sample_idx=3)), seed)
    pipeline.transforms[1:] = [TwoColours([Invert(), *pipeline.transforms[1:]])]
    got = seeded(lambda: pipeline(dict(sample_idx=3)), seed)
    assert torch.equal(got['data_samples'].get(FIELD), plain['inputs'])
    assert not torch.equal(got['inputs'], plain['inputs'])


def photos(*steps) -> dict:
    loads = dict(type='mmengine.Photo')
    return dict(type='mmengine.Photos', pipeline=[loads, *steps])


def loader(*steps, **kwargs) -> dict:
    return dict(
        dataset=photos(*steps) | kwargs,
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
    )


def run(tmp_path, *steps, teacher=None, loads=None, **kwargs):
    cfg = distill_cfg(
        toys.retinanet(),
        toys.retinanet(width=24),
        teacher_kwargs=dict(plain_colours=True) if teacher is None else teacher,
    )
    data = loader(*steps) | (loads or {})
    return make_runner(
        cfg, tmp_path, train_dataloader=data, default_scope='mmdet', **kwargs
    )


def images_of(model) -> dict[str, list]:
    """What both networks see while the student trains, filled then."""
    found = dict(student=[], teacher=[])
    backbones = dict(student=model, teacher=model.distiller.teacher.model)
    for name, network in backbones.items():

        def note(module, inputs, name=name):
            if name == 'teacher' or module.training:
                found[name].append(inputs[0])

        network.backbone.register_forward_pre_hook(note)
    return found


def test_in_training_the_teacher_sees_them(tmp_path):
    one = run(tmp_path, COLOUR, *GEOMETRY)
    found = images_of(one.model)
    one.train()
    assert len(found['student']) == len(found['teacher']) == 8
    for mine, theirs in zip(found['student'], found['teacher'], strict=True):
        assert mine.shape == theirs.shape and not torch.allclose(mine, theirs)
        # alike but for the colours
        both = torch.stack([mine.mean(1).flatten(), theirs.mean(1).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.5


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('colours', [[COLOUR], []], ids=['', 'none'])
def test_a_pipeline_that_a_hook_switches_to_is_split_too(tmp_path, colours, workers):
    switch = dict(
        type='PipelineSwitchHook',
        switch_epoch=1,
        switch_pipeline=[dict(type='mmengine.Photo'), *colours, *GEOMETRY],
    )
    several = dict(num_workers=workers, persistent_workers=workers > 0)
    one = run(
        tmp_path, COLOUR, *GEOMETRY, loads=several, custom_hooks=[switch], epochs=3,
        log_level='INFO',
    )  # fmt: skip
    found = images_of(one.model)
    one.train()
    pairs = list(zip(found['student'], found['teacher'], strict=True))
    same = [torch.equal(mine, theirs) for mine, theirs in pairs]
    assert same == [False] * 4 + [not colours] * 8
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count("the teacher sees the student's images") == (not colours)


@pytest.mark.parametrize('persist', [False, True])
def test_workers_that_are_there_before_training_see_it(tmp_path, persist):
    """MMEngine 0.10 starts an endless loader's while it builds the loop."""
    loads = dict(
        num_workers=1,
        persistent_workers=persist,
        sampler=dict(type='InfiniteSampler', shuffle=True),
    )
    loop = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=9)
    one = run(tmp_path, COLOUR, *GEOMETRY, loads=loads, train_cfg=loop)
    found = images_of(one.model)
    one.train()
    assert len(found['student']) == len(found['teacher']) == 4
    pairs = zip(found['student'], found['teacher'], strict=True)
    assert not any(torch.allclose(mine, theirs) for mine, theirs in pairs)


def test_data_sets_with_and_without_colours_go_together():
    mixed = DATASETS.build(
        dict(
            type='mmengine.ConcatDataset',
            datasets=[photos(COLOUR, *GEOMETRY), photos(*GEOMETRY)],
        )
    )
    model = build(distill_cfg(toys.retinanet(), toys.retinanet()))
    for again in (False, True):
        prepare(mixed, model, again=again)
    for part, same in zip(mixed.datasets, (False, True), strict=True):
        item = part[0]
        assert torch.equal(item['inputs'], item['data_samples'].get(FIELD)) == same


def test_without_the_option_nothing_is_added(tmp_path):
    one = run(tmp_path, COLOUR, *GEOMETRY, teacher={})
    one.train()
    steps = one.train_dataloader.dataset.pipeline.transforms
    assert not any(isinstance(step, TwoColours) for step in steps)


@pytest.mark.parametrize(
    'steps, extra, match',
    [
        (GEOMETRY, {}, 'has no effect'),
        ([dict(type='mmdet.RandAugment', aug_space=[[COLOUR]]), *GEOMETRY], {}, 'once'),
        (
            [
                dict(
                    type='RandomApply',
                    transforms=[COLOUR, dict(type='mmdet.RandomFlip', prob=1.0)],
                ),
                *GEOMETRY,
            ],
            {},
            'chooses between',
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, steps, extra, match):
    with pytest.raises(ConfigError, match=f'plain_colours.*{match}'):
        run(tmp_path, *steps, **extra).train()


def test_images_that_are_mixed_behind_it_are_refused():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        mixed = DATASETS.build(
            dict(
                type='mmdet.MultiImageMixDataset',
                dataset=photos(COLOUR),
                pipeline=[dict(type='mmdet.Mosaic', img_scale=SIZE), *GEOMETRY[2:]],
            )
        )
        with pytest.raises(ConfigError, match='mixed behind'):
            split_colours(mixed)
        late = DATASETS.build(
            dict(
                type='mmdet.MultiImageMixDataset',
                dataset=photos(),
                pipeline=[
                    dict(type='mmdet.Mosaic', img_scale=SIZE),
                    dict(type='mmdet.YOLOXHSVRandomAug'),
                    *GEOMETRY[2:],
                ],
            )
        )
        assert split_colours(late) == 1 == split_colours(late)
        sample = late[0]
        assert sample['data_samples'].get(FIELD).shape == sample['inputs'].shape


@pytest.mark.parametrize(
    'name', ['CachedMixUp', 'CachedMosaic', 'Mosaic', 'MixUp', 'CopyPaste']
)
def test_what_takes_in_other_images_twice_is_refused(name):
    size = {} if name == 'CopyPaste' else dict(img_scale=SIZE)
    mixes = dict(type=f'mmdet.{name}', **size)
    colour = dict(type='mmdet.YOLOXHSVRandomAug')
    sometimes = dict(type='RandomApply', transforms=[mixes])
    match = f'plain_colours.*{name} takes in other images.*put it before'
    for step in (mixes, sometimes):
        with pytest.raises(ConfigError, match=match):
            split_colours(SimpleNamespace(pipeline=compose(colour, step)))
        assert split_colours(SimpleNamespace(pipeline=compose(step, colour))) == 1


JITTER, RANDAUG = ({'type': f'mmpretrain.torchvision/{name}'} for name in
                   ('ColorJitter', 'RandAugment'))  # fmt: skip


def test_colours_are_found_inside_of_what_wraps_and_chooses():
    import mmpretrain.datasets  # noqa: F401

    either = dict(type='RandomChoice', transforms=[[JITTER], [COLOUR, JITTER]])
    for step in (JITTER, either):
        assert split_colours(SimpleNamespace(pipeline=compose(step))) == 1
    with pytest.raises(ConfigError, match='plain_colours.* RandAugment changes'):
        split_colours(SimpleNamespace(pipeline=compose(RANDAUG)))


def test_a_batch_without_them_is_refused_by_name():
    cfg = distill_cfg(
        toys.retinanet(), toys.retinanet(), teacher_kwargs=dict(plain_colours=True)
    )
    with pytest.raises(ConfigError, match='teacher.plain_colours.*no second image'):
        losses_of(build(cfg), detection_batch())


def test_a_batch_is_preprocessed_as_the_students():
    model = build(distill_cfg(toys.retinanet(), toys.retinanet()))
    batch = detection_batch(sizes=[(3, 48, 64), (3, 64, 40)])
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    for sample, image in zip(data['data_samples'], batch['inputs'], strict=True):
        sample.set_field(image, FIELD, dtype=torch.Tensor)
    plain = plain_batch(model.data_preprocessor, data['data_samples'], data['inputs'])
    assert torch.equal(plain, data['inputs'])


def test_the_students_average_can_see_them_too(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet())
    cfg['teacher'] = dict(config='ema', plain_colours=True)
    one = make_runner(
        cfg, tmp_path, train_dataloader=loader(COLOUR, *GEOMETRY), epochs=1
    )
    seen = []
    average = one.model.distiller.teachers.guides['']
    average.model.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    one.model.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]) if module.training else None
    )
    one.train()
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert len(pairs) == 4
    assert all(a.shape == b.shape and not torch.allclose(a, b) for a, b in pairs)
