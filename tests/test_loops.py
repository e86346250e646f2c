"""Every loop, every runner: where training is, and who says so."""

import pytest
import toys
from helpers import (
    PackedImages,
    build,
    detection_batch,
    distill_cfg,
    fitnet,
    losses_of,
    runner,
)
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, IterableDataset

from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress

STUDENT = toys.retinanet()


def dafa(**kwargs) -> dict:
    return dict(type='kd_mm.DAFA', **{'start': 0, 'search_epochs': 1, **kwargs})


def links(*stages, **link) -> dict:
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1],
            stages=list(stages),
            criterion=dict(type='kd_mm.MSELoss'),
            **link,
        )
    )


def of_iterations(count: int, *, infinite: bool = True) -> dict:
    """Settings of an iteration-based run; four iterations are an epoch."""
    kind = 'InfiniteSampler' if infinite else 'DefaultSampler'
    return dict(
        train_cfg=dict(_delete_=True, by_epoch=False, max_iters=count),
        train_dataloader=dict(sampler=dict(type=kind)),
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
    )


def make(folder, links_cfg, **kwargs):
    return runner(distill_cfg(STUDENT, STUDENT, links_cfg), folder, **kwargs)


class Course(Hook):
    """What holds in every iteration."""

    priority = 'LOW'

    def __init__(self):
        self.factors, self.ages, self.logs = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        distiller = runner.model.distiller
        self.factors.append(distiller.factors()['fpn'])
        stage = next(iter(distiller.links['fpn'].stages), None)
        if hasattr(stage, 'age'):
            self.ages.append(stage.age(distiller.now()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.logs.append(outputs)


def augmented(course: Course) -> int:
    """In how many steps the policy drew."""
    return sum('kd_fpn_policy_entropy' in log for log in course.logs)


def course_of(one) -> Course:
    course = Course()
    one.register_hook(course)
    one.train()
    return course


@pytest.mark.parametrize('by_iterations', [False, True])
def test_an_epoch_is_a_pass_over_the_data_in_every_loop(tmp_path, by_iterations):
    loop = of_iterations(8) if by_iterations else {}
    schedule = dict(warmup=1, stop=1.5)
    one = make(
        tmp_path,
        links(dafa(start=1, search_epochs=0.5), schedule=schedule),
        epochs=2,
        **loop,
    )
    course = course_of(one)
    assert course.factors == [0, 0.25, 0.5, 0.75, 1, 1, 0, 0]
    assert course.ages == [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75]
    assert augmented(course) == 2


def test_channels_are_matched_after_a_pass_over_the_data(tmp_path):
    align = dict(type='kd_mm.ChannelAlign', fit_at=1, transform='random')
    course = course_of(make(tmp_path, links(align), **of_iterations(6)))
    assert course.factors == [0, 0, 0, 0, 1, 1]


class Stream(IterableDataset):
    """Images without an end."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        while True:
            yield from self.images


def stream_of(one) -> DataLoader:
    loader = one.train_dataloader
    return DataLoader(
        Stream(list(loader.dataset)), batch_size=2, collate_fn=loader.collate_fn
    )


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (links(schedule=dict(warmup=1)), 'links.fpn: schedule.warmup=1 counts epochs'),
        (links(dafa(start=1)), r'links.fpn: stages\[0\] DAFA: start=1 counts epochs'),
        (
            links(dict(type='kd_mm.ChannelAlign', fit_at=1)),
            'ChannelAlign: fit_at=1 counts',
        ),
    ],
    ids=['schedule', 'DAFA', 'ChannelAlign'],
)
def test_epochs_of_a_stream_are_refused(tmp_path, cfg, message):
    one = make(tmp_path, cfg, **of_iterations(4))
    one._train_loop = one.build_train_loop(one._train_loop)
    one.train_loop.dataloader = stream_of(one)
    with pytest.raises(ConfigError, match=f'{message}.*by_epoch=False'):
        one.train()


def test_channels_are_not_matched_on_a_stream(tmp_path):
    one = make(tmp_path, links(dict(type='kd_mm.ChannelAlign')), **of_iterations(4))
    one._train_loop = one.build_train_loop(one._train_loop)
    one.train_loop.dataloader = stream_of(one)
    with pytest.raises(ConfigError, match='training images that can be counted'):
        one.train()


def test_a_stream_trains_by_iterations(tmp_path):
    stage = dafa(start=1, search_epochs=2, by_epoch=False)
    cfg = links(stage, schedule=dict(warmup=2, by_epoch=False))
    settings = of_iterations(4) | dict(default_hooks=dict(logger=None))  # asks for len
    one = make(tmp_path, cfg, **settings)
    one._train_loop = one.build_train_loop(one._train_loop)
    loader = stream_of(one)
    one.train_loop.dataloader = loader
    one.train_loop.dataloader_iterator._dataloader = loader
    course = course_of(one)
    assert course.factors == [0, 0.5, 1, 1] and course.ages == [-1, 0, 1, 2]
    when = one.message_hub.get_scalar('kd_policy/fpn/iteration').data[0]
    assert when.tolist() == [1, 2, 3, 4]


def test_infinite_samplers_share_an_epoch_among_the_ranks(tmp_path, monkeypatch):
    one = make(tmp_path, links(), **of_iterations(8))
    one._train_loop = one.build_train_loop(one._train_loop)
    monkeypatch.setattr(one.train_dataloader.sampler, 'world_size', 2)
    assert Progress.of(one).max_epochs == 4  # two ranks, two iterations each


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (links(schedule=dict(stop=3)), 'links.fpn: schedule.stop=3 is never reached'),
        (links(schedule=dict(warmup=3)), 'schedule.warmup=3 is never reached in 2 ep'),
        (links(schedule=dict(decay=3)), 'schedule.decay=3 is never reached'),
        (links(schedule=dict(warmup=1, decay=1.5)), 'whole weight'),
        (links(schedule=dict(stop=9, by_epoch=False)), 'reached in 8 iterations'),
        (
            links(dafa(start=1), schedule=dict(stop=1)),
            'never reached in 1 epoch of the link',
        ),
        (
            links(dict(type='kd_mm.ChannelAlign', fit_at=1), schedule=dict(stop=1)),
            'fit_at=1 is never.*schedule.stop',
        ),
        (links(dafa(start=2)), r'stages\[0\] DAFA: start=2 .* at least 3 epochs, or'),
        (links(dafa(search_epochs=3)), r'start \+ search_epochs=3 .* at least 3 ep'),
        (links(dict(type='kd_mm.ChannelAlign', fit_at=2)), 'fit_at=2 is never reached'),
        (links(dict(type='kd_mm.ChannelAlign', fit_at=0, every=1)), 'without effect'),
        ('sokd', "at least 4 epochs, .*; it comes from links='sokd': --"),
    ],
)
@pytest.mark.parametrize('by_iterations', [False, True])
def test_what_lies_beyond_the_end_is_refused(tmp_path, cfg, message, by_iterations):
    loop = of_iterations(8) if by_iterations else {}
    one = make(tmp_path, cfg, epochs=2, test_pipeline=[dict(type='Pack')], **loop)
    with pytest.raises(ConfigError, match=message):
        one.train()


@DATASETS.register_module()
class WithPipeline(PackedImages):
    """A data set that has augmentation to be left out."""

    pipeline = ()


def test_without_a_pipeline_to_match_channels_on_the_run_does_not_begin(tmp_path):
    settings = of_iterations(8)
    settings['train_dataloader'] |= dict(dataset=dict(type='mmengine.WithPipeline'))
    one = make(tmp_path, links(dict(type='kd_mm.ChannelAlign')), **settings)
    with pytest.raises(ConfigError, match='links.fpn.*the pipeline of val_dataloader'):
        one.train()
    assert one.iter == 0


def test_a_link_that_is_off_may_say_what_it_likes(tmp_path):
    cfg = links(dafa(start=9), schedule=dict(stop=9))
    cfg['fpn']['criterion']['weight'] = 0.0
    assert course_of(make(tmp_path, cfg, epochs=1)).factors == [0] * 4


def test_the_course_of_an_iteration_based_run_is_more_than_a_dot(tmp_path):
    """Less than one pass over the data."""
    loader = dict(dataset=dict(count=64))
    settings = of_iterations(8)
    settings['train_dataloader'] |= loader
    stage = dafa(search_epochs=8, by_epoch=False)
    one = make(
        tmp_path,
        links(stage),
        custom_hooks=[dict(type='kd_mm.DrawSoKDHook', interval=4, by_epoch=False)],
        **settings,
    )
    one.train()
    hub = one.message_hub
    assert len(hub.get_scalar('kd_policy/fpn/entropy').data[0]) == 8
    epochs = hub.get_scalar('kd_policy/fpn/epoch').data[0].tolist()
    assert epochs == [i / 32 for i in range(1, 9)]
    pictures = [p.name for p in tmp_path.rglob('policy_fpn_*.png')]
    assert len(pictures) == 8 and 'policy_fpn_8.png' in pictures


# ---- whose run it is -------------


def test_a_second_runner_does_not_lead_the_first_astray(tmp_path):
    cfg = links(dafa(), schedule=dict(warmup=1))
    first = make(tmp_path / 'a', cfg, epochs=1)
    second = make(tmp_path / 'b', cfg, epochs=2)
    course = course_of(first)
    assert course.factors == [0, 0.25, 0.5, 0.75]
    assert course.ages == [0, 0.25, 0.5, 0.75]
    assert augmented(course) == 3
    assert not any('kd_policy' in key for key in second.message_hub.log_scalars)
    assert course_of(second).factors[:5] == [0, 0.25, 0.5, 0.75, 1]


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', seen.append)
    return seen


def test_a_model_that_no_hook_serves_says_so_at_its_first_step(warnings):
    align = dict(type='kd_mm.ChannelAlign')
    unrolled = dafa(objective='unrolled')
    model = build(
        distill_cfg(STUDENT, STUDENT, links(unrolled) | dict(kcd=links(align)['fpn']))
    )
    assert not [text for text in warnings if 'DistillHook' in text]
    for _ in range(2):
        losses_of(model, detection_batch())
    (text,) = (text for text in warnings if 'DistillHook' in text)
    assert 'links.fpn: the policy' in text and 'links.kcd: ChannelAlign' in text


def test_a_runner_serves_without_a_word(tmp_path, warnings):
    course_of(make(tmp_path, fitnet(), epochs=1))
    assert not [text for text in warnings if 'DistillHook' in text]
