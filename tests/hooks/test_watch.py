"""What DistillHook says of a training that goes wrong, and that it says it once."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from kd_mm.hooks.watch import Watch
from kd_mm.pair import FeaturePair
from kd_mm.schedule import Progress
from kd_mm.stages import DAFA, DAM

NOW = Progress(1, 10, 10, 100)
STEPS = 20


def dafa(**options):
    """A stage with a policy."""
    stage, feature = DAFA(**options), torch.zeros(2, 4, 8, 8)
    stage.setup(
        FeaturePair(
            link='fpn',
            student=[feature],
            teacher=[feature],
            samples=[],
            image_size=(64, 64),
        )
    )
    return stage


class Run:
    """A log that is written to by hand, and what the watch makes of it."""

    def __init__(self, name, *, factor=1.0):
        self.hub = MessageHub(f'watch-{name}')
        self.logger = logging.getLogger(f'watch-{name}')
        self.said = []
        self.logger.handlers = [logging.Handler()]
        self.logger.handlers[0].emit = lambda record: self.said.append(record.msg)
        self.watch = Watch()
        self.runner = SimpleNamespace(message_hub=self.hub, logger=self.logger)
        self.link = SimpleNamespace(
            factor=lambda progress: factor,
            criterion=SimpleNamespace(weight=1.0),
            share=None,
            images='all',
            stages=[dafa(), DAM()],
        )
        self.links = dict(fpn=self.link)
        self.watch.begin(self.runner)

    def epoch(self, **values):
        """One pass over the data; a value may be a list of all its steps."""
        for key, value in values.items():
            steps = value if isinstance(value, list) else [value] * STEPS
            for number in steps:
                self.hub.update_scalar(f'train/{key}', number)
        self.watch.note(self.runner, self.links, NOW)

    def validate(self, value, key='coco/bbox_mAP'):
        self.watch.validated(self.runner, {key: value})


WELL = dict(
    kd_fpn_gradient_share=0.4,
    kd_fpn_area=0.3,
    kd_fpn_policy_entropy=2.0,
    kd_fpn_policy_strength=1.0,
)


def test_a_healthy_course_says_nothing(request):
    run = Run(request.node.name)
    for epoch in range(6):
        run.epoch(**WELL, loss_kd_fpn=5.0 / (1 + epoch))
        run.validate(0.1 * epoch)
    run.validate(0.49)  # noise
    assert run.said == []


@pytest.mark.parametrize(
    ('wrong', 'says'),
    [
        (dict(kd_fpn_gradient_share=0.0), 'does nothing'),
        (dict(kd_fpn_gradient_share=0.9999), 'drowned'),
        (dict(loss_kd_fpn=3.0), 'has not fallen'),
        (dict(loss_kd_fpn=0.0), 'is 0'),
        (dict(kd_fpn_area=1.0), 'the whole image'),
        (dict(kd_fpn_policy_entropy=0.01), 'one pair'),
    ],
)
def test_each_thing_is_said_once_after_it_lasted(request, wrong, says):
    run = Run(request.node.name)
    for _ in range(5):
        run.epoch(**(WELL | wrong))
    assert len(run.said) == 1 and says in run.said[0] and 'links.fpn' in run.said[0]


def test_a_link_that_fell_before_the_run_was_resumed_is_not_judged(request):
    run = Run(request.node.name)
    run.runner._resume = run.runner._has_loaded = True
    run.watch.begin(run.runner)
    for _ in range(6):
        run.epoch(**WELL, loss_kd_fpn=1.0)
    assert run.said == []
    for value in (0.5, 0.2, 0.2):
        run.validate(value)
    assert len(run.said) == 1 and 'when the run went on' in run.said[0]


def test_a_run_that_was_to_resume_and_had_nothing_to_is_judged(request):
    """MMDetection's `--resume` in the first start of a job that restarts itself."""
    run = Run(request.node.name)
    run.runner._resume, run.runner._has_loaded = True, False
    run.watch.begin(run.runner)
    for _ in range(6):
        run.epoch(**WELL, loss_kd_fpn=1.0)
    assert len(run.said) == 1 and 'links.fpn' in run.said[0]


def test_of_a_link_on_images_without_labels_their_loss_counts(request):
    run = Run(request.node.name)
    run.link.images = 'unlabelled'
    for loss in (3.0, 2.0, 1.0, 0.9, 0.8, 0.8):
        run.epoch(loss_kd_fpn=0.0, loss_kd_fpn_unlabelled=loss, **WELL)
    assert run.said == []


def test_what_cannot_be_otherwise_is_not_said(request):
    """A share that is held near 0 on request; a policy that has one pair to draw."""
    run = Run(request.node.name)
    run.link.share = object()
    run.link.stages = [dafa(operators=['ShearX', 'Noise'])]
    for _ in range(5):
        run.epoch(**WELL | dict(kd_fpn_gradient_share=0.0, kd_fpn_policy_entropy=0.0))
    assert run.said == []


def test_one_bad_epoch_or_one_good_step_is_no_reason(request):
    run = Run(request.node.name)
    run.epoch(kd_fpn_gradient_share=1.0)
    run.epoch(kd_fpn_gradient_share=0.5)
    for _ in range(4):
        run.epoch(kd_fpn_gradient_share=[1.0] * (STEPS - 1) + [0.5])
    assert run.said == []


def test_a_link_that_does_not_run_fully_is_not_judged(request):
    run = Run(request.node.name, factor=0.5)  # a warm-up: its loss rises by itself
    for _ in range(5):
        run.epoch(loss_kd_fpn=1.0, kd_fpn_gradient_share=0.0)
    assert run.said == []


@pytest.mark.parametrize('key', ['coco/bbox_mAP', 'accuracy/top1'])
def test_a_student_that_is_worse_than_before_the_links(request, key):
    run = Run(request.node.name)
    scale = 100 if 'top1' in key else 1
    run.validate(0.5 * scale, key)
    run.epoch(**WELL, loss_kd_fpn=1.0)
    for value in (0.44, 0.48, 0.4, 0.4):  # not twice in a row before the last
        assert run.said == []
        run.validate(value * scale, key)
    assert len(run.said) == 1 and 'when the links began' in run.said[0]


def test_what_is_better_when_lower_is_not_judged(request):
    run = Run(request.node.name)
    for value in (2.0, 0.1, 0.1, 0.1):
        run.validate(value, 'nme')
        run.epoch(**WELL, loss_kd_fpn=1.0 / value)
    assert not any('began: distillation' in text for text in run.said)


def test_the_log_of_an_earlier_run_does_not_count(request):
    run = Run(request.node.name)
    for _ in range(50):
        run.hub.update_scalar('train/kd_fpn_gradient_share', 0.0)
    run.watch.begin(run.runner)
    run.epoch(kd_fpn_gradient_share=0.3)
    run.epoch(kd_fpn_gradient_share=0.3)
    assert run.said == []
