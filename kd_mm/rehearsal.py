"""Both networks once, before training: what do the taps of both give for one batch?

The rehearsal exists to learn widths and to refuse what cannot work. It must refuse
nothing that works: what a network does behind its last tap is not looked at, and sizes
and devices are tried until the taps of both networks have fired.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import Tensor, nn

from . import sizes
from .errors import ConfigError
from .link import Link
from .modes import tell_own_modes
from .preprocess import channels_last
from .sizes import Size
from .taps import Recording, Taps
from .teacher import Teacher
from .teachers import Teachers, with_own
from .trial import IMAGES, Pass, on_device, reason, stand_in, trial, trial_samples
from .utils.randomness import kept_random

Found = TypeVar('Found')

# What is fed with something else than one batch of images, and what to do instead.
_OTHER_INPUTS = dict(
    BaseSelfSupervisor='is self-supervised: it is fed with views or masks of images '
    'and predicts nothing; distil an ImageClassifier with its backbone',
    BaseMOTModel='tracks: it is fed with clips; distil the detector inside it',
    SemiBaseDetector='is semi-supervised: it is fed with several branches; distil the '
    'detector inside it',
)

# What the data samples of a toolbox never have: a link that reads it is refused here.
_NO_TRUTH = dict(BaseClassifier='gt_instances', BaseDetector='gt_label')

_INSTEAD = (
    'which student and teacher choose differently, so that nothing can be compared one '
    'by one; tap maps of whole images in front of them, such as neck, backbone or '
    'encoder'
)


@dataclass
class Rehearsed:
    """What the taps of both networks gave for one batch.

    Attributes:
        student (Recording): In training, or in prediction where training could not
            be tried.
        predicting (Recording, optional): The student's in prediction, None where
            that could not be tried.
        teacher (Recording): In prediction, as they always run.
        samples (Sequence): The batch's data samples.
        size (tuple[int, int]): Its height and width.
    """

    student: Recording
    predicting: Recording | None
    teacher: Recording
    samples: Sequence[Any]
    size: Size


class NotReachedError(Exception):
    """A pass that ended before it showed what was wanted.

    Args:
        owner (str): 'student' or 'teacher'.
        text (str): What happened.
    """

    def __init__(self, owner: str, text: str) -> None:
        super().__init__(text)
        self.owner = owner


def refuse_other_inputs(model: nn.Module, owner: str) -> None:
    """Refuse what is no detector or classifier of single images, by name if it has one.

    Args:
        model (nn.Module): Student or teacher.
        owner (str): Which of both, for the message.

    Raises:
        ConfigError: If ``model`` is self-supervised, tracks or is semi-supervised, or
            no model of MMEngine at all.
    """
    if not isinstance(getattr(model, 'data_preprocessor', None), nn.Module):
        raise ConfigError(
            f'the {owner} {type(model).__name__} has no data_preprocessor: it is no '
            'mmengine.model.BaseModel, as the models of MMDetection and MMPretrain are'
        )
    for parent in type(model).__mro__:
        if why := _OTHER_INPUTS.get(parent.__name__):
            raise ConfigError(f'the {owner} {type(model).__name__} {why}')


def rehearse(
    student: nn.Module, teachers: Teachers, taps: Taps, *, size: Size | None
) -> Rehearsed:
    """Run all networks on the same random images and look at their taps.

    The student runs in training and in prediction, teachers in prediction. No
    random numbers are drawn, and no network is changed.

    Args:
        student (nn.Module): The student, not yet distilled.
        teachers (Teachers): The teachers, connected.
        taps (Taps): The student's; they and the teachers' learn.
        size (tuple[int, int], optional): Height and width of the images. None: those
            of :func:`kd_mm.sizes.candidates`, until one works.

    Raises:
        ConfigError: If the taps of both fire at no size and on no device.
    """

    def once(shape: tuple[int, int, int], device: str, fresh: bool) -> Rehearsed:
        return _once(student, teachers.guides, taps, shape, device, fresh)

    return tried(student, list(teachers.guides.values()), once, size=size)


def tried(
    student: nn.Module,
    guides: Sequence[Teacher],
    once: Callable[[tuple[int, int, int], str, bool], Found],
    *,
    size: Size | None,
) -> Found:
    """What ``once`` gives for the first size, device and student that it works with.

    Args:
        student (nn.Module): The student, not yet distilled.
        guides (Sequence[Teacher]): The teachers, connected.
        once (Callable): Gets ``(C, H, W)`` of the images, the device on which all
            networks are, and whether to take a student with fresh weights; raises
            :class:`NotReachedError` where another attempt may do.
        size (tuple[int, int], optional): As in :func:`rehearse`.

    Raises:
        ConfigError: If it works nowhere.
    """
    failures: list[NotReachedError] = []
    sizes_tried: dict[str, None] = {}
    devices = dict.fromkeys([get_device(), 'cpu'])
    for device, fresh in itertools.product(devices, (False, True)):
        said: set[str] = set()
        for shape in _shapes_to_try(student, guides, size, device):
            sizes_tried[' x '.join(map(str, shape))] = None
            try:
                with _prepared(student, guides, device):
                    return once(shape, device, fresh)
            except NotReachedError as error:
                failures.append(error)
                if str(error) in said:
                    break  # for the same reason at two sizes: the size is none
                said.add(str(error))
    # the attempt that came furthest tells most
    told = next((f for f in failures if f.owner == 'teacher'), failures[0])
    raise ConfigError(f'{told} (tried: images of {", ".join(sizes_tried)})') from None


def _shapes_to_try(
    student: nn.Module, guides: Sequence[Teacher], size: Size | None, device: str
) -> list[tuple[int, int, int]]:
    """``(C, H, W)`` of images, the likeliest first."""
    models = [student, *(guide.model for guide in guides)]
    found = [size] if size else sizes.candidates(*models, on_cpu=device == 'cpu')
    bands = sizes.channels(student)
    return [(n, height, width) for height, width in found for n in bands]


@contextmanager
def _prepared(
    student: nn.Module, guides: Sequence[Teacher], device: str
) -> Iterator[None]:
    """All networks on the device, and the same random numbers on every rank."""
    with ExitStack() as stack:
        try:
            stack.enter_context(kept_random(device))
            theirs = [part for guide in guides for part in (guide.model, guide.bridge)]
            for module in (student, *theirs):
                stack.enter_context(on_device(module, device))
        except Exception as error:
            text = f'no trial on {device}: {reason(error)}'
            raise NotReachedError('student', text) from error
        torch.manual_seed(0)
        yield


def _once(
    student: nn.Module,
    guides: Mapping[str, Teacher],
    taps: Taps,
    shape: tuple[int, int, int],
    device: str,
    fresh: bool,
) -> Rehearsed:
    inputs, samples = trial_batch(student, shape, device)
    training, predicting = _student(student, taps, inputs, samples, fresh)
    shown = {n: shown_to_teacher(guide, inputs, samples) for n, guide in guides.items()}
    for name, guide in guides.items():
        _learn(shown[name], guide.model, guide.taps, 'prediction')
    for name, guide in guides.items():
        guide.settle(shown[name].reached)
        guide.check_dtype(inputs, samples)
    _tell_cost(training.flops, shown, shape[1:])
    teacher = Recording.together({name: p.recording for name, p in shown.items()})
    return Rehearsed(
        student=training.recording.map(Tensor.cpu),
        predicting=predicting and predicting.map(Tensor.cpu),
        teacher=with_own(teacher, training.recording).map(Tensor.cpu),
        samples=[_as_trained(student, s.to('cpu')) for s in samples],
        size=shape[1:],
    )


def trial_batch(
    student: nn.Module, shape: tuple[int, int, int], device: str
) -> tuple[Tensor, list[Any]]:
    """Random images, as the student's preprocessor would leave them, and samples."""
    size = image = shape[1:]
    if size == sizes.padded(sizes.ODD, student.data_preprocessor):
        image = sizes.ODD
    inputs = torch.randn(IMAGES, *shape, device=device)
    return inputs, [s.to(device) for s in trial_samples(IMAGES, size, image)]


def shown_to_teacher(guide: Teacher, inputs: Tensor, samples: Sequence[Any]) -> Pass:
    """The teacher's pass on a batch of the student's."""
    shown = guide.rehearse(inputs, samples)
    takes = sizes.channels(guide.model)
    if inputs.shape[1] not in takes:
        shown.failure += (
            f'; it takes images of {takes[0]} channels and the student of '
            f'{inputs.shape[1]}, which nothing converts'
        )
    return shown


def _as_trained(student: nn.Module, sample: Any) -> Any:
    """A sample with the ground truth that the student's data will have."""
    for parent in type(student).__mro__:
        foreign = _NO_TRUTH.get(parent.__name__, '')
        if foreign in sample:
            delattr(sample, foreign)
    return sample


def _student(
    student: nn.Module, taps: Taps, inputs: Tensor, samples: Sequence[Any], fresh: bool
) -> tuple[Pass, Recording | None]:
    """The student in training and in prediction, on a copy."""
    try:
        twin = stand_in(student, fresh=fresh)
    except Exception as error:
        predicting = trial(student, taps, inputs, samples, mode='predict')
        _learn(predicting, student, taps, 'prediction')
        _tell(f'the student cannot be copied ({reason(error)})')
        return predicting, None
    training = trial(twin, taps, inputs, samples, mode='loss')
    predicting = trial(twin, taps, inputs, samples, mode='predict')
    try:
        _learn(training, student, taps, 'training')
    except NotReachedError as error:
        if not predicting.useful:
            raise
        _learn(predicting, student, taps, 'prediction')
        _tell(str(error))
        return predicting, None
    if not predicting.useful:
        return training, None
    _learn(predicting, student, taps, 'prediction')
    tell_own_modes(twin, taps, predicting.recording, inputs, samples)
    return training, predicting.recording


def _tell_cost(student: int, shown: Mapping[str, Pass], size: Size) -> None:
    """What teachers cost, as far as they run; backward passes count twice."""
    whole = 3 * student + sum(guide.flops for guide in shown.values())
    for name, guide in shown.items() if whole else ():
        own, theirs = (n / IMAGES / 1e9 for n in (student, guide.flops))
        height, width = guide.recording.image_size or size
        MMLogger.get_current_instance().info(
            f'kd_mm: on images of {size[0]} x {size[1]} the teacher {name}'.rstrip()
            + f', which sees them as {height} x {width}, computes {theirs:.3g} GFLOP '
            f'an image, the student {own:.3g} and twice that backward: '
            f'{guide.flops / whole:.0%} of a step is the teacher'
        )


def _tell(why: str) -> None:
    MMLogger.get_current_instance().warning(
        f'kd_mm: {why}; its taps have been tried in prediction only'
    )


def _learn(shown: Pass, model: nn.Module, taps: Taps, when: str) -> None:
    """Let taps learn from a pass that they have all fired in.

    A complete pass without them says that they never will.
    """
    if shown.useful or not shown.failure:
        taps.learn(shown.recording, when=when)
        return
    missing = [str(tap) for tap, calls in shown.recording.calls.items() if not calls]
    raise NotReachedError(
        taps.owner,
        f'the {taps.owner} {type(model).__name__} cannot be tried in {when}, it fails '
        f'in front of {", ".join(missing)}: {shown.failure}',
    )


def check_features(link: Link, seen: Rehearsed, taps: dict[str, Taps]) -> None:
    """What a link reads must be features of images, the same ones in every mode.

    Regions (RoIs) and queries are chosen by the network itself: by student and teacher
    different ones, and in training others than in prediction. Compared one by one they
    say nothing: a stage must match them first, and says so (``Stage.matches``).

    Args:
        link (Link): Reads the taps.
        seen (Rehearsed): What they gave.
        taps (dict[str, Taps]): Of the 'student' and the 'teacher'.

    Raises:
        ConfigError: If a first axis is not the images, or shapes depend on the mode.
    """
    if link.stages and link.stages[0].matches:
        link.stages[0].see_prediction(
            seen.predicting
            and link.features('student', taps['student'], seen.predicting)
        )
        _check_bridge(link, seen)
        return
    for side, recording in (('student', seen.student), ('teacher', seen.teacher)):
        for shape in _shapes(link, side, taps, recording):
            if not shape or shape[0] != IMAGES:
                raise ConfigError(
                    f'{side} {" ".join(link.specs[side])} gives {shape} for {IMAGES} '
                    'images: the first axis is not the images but, say, regions, '
                    f'queries or layers, {_INSTEAD}'
                )
            own = recording.of(link.teachers[0] if side == 'teacher' else '')
            if channels_last(shape, own.image_size or seen.size):
                raise ConfigError(
                    f'{side} {" ".join(link.specs[side])} gives {shape}: a map with '
                    'its channels last, where a link takes (N, C, H, W); tap the '
                    "module that moves them (torchvision's Swin: backbone.permute)"
                )
    if seen.predicting is None:
        return
    training = _shapes(link, 'student', taps, seen.student)
    try:
        predicting = _shapes(link, 'student', taps, seen.predicting)
    except ConfigError:  # a level that exists in training only
        return
    if len(predicting) == len(training) and predicting != training:
        raise ConfigError(
            f'student {" ".join(link.specs["student"])} gives {training} in training '
            f'and {predicting} in prediction, which is how the teacher runs: queries '
            f'or regions, {_INSTEAD}'
        )


def _check_bridge(link: Link, seen: Rehearsed) -> None:
    """What is no map is not cropped where the teacher's batch is padded further."""
    for name in link.teachers:
        padded = seen.teacher.of(name).image_size
        if padded is not None:
            raise ConfigError(
                f'{type(link.stages[0]).__name__} matches {link.stages[0].matches}, '
                f'and the teacher sees images padded to {padded}, the student to '
                f'{seen.size}: give both the same pad_size_divisor'
            )


def _shapes(link: Link, side: str, taps: dict[str, Taps], recording: Recording):
    features = link.features(side, taps[side], recording)
    return [tuple(feature.shape) for feature in features]
