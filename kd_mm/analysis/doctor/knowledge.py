"""What teacher and student know: metrics, labels, classes, weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import box_iou

from ...errors import ConfigError
from ...unaugmented import undisturbed
from ...utils.classes import classes_of, differing, names_of
from ...utils.files import read_checkpoint
from ...utils.loading import find_file
from ...utils.randomness import kept_random
from ..evaluate import evaluate
from .finding import Finding, fine, look, wrong
from .patient import Patient

PERMUTED = 0.3  # what the best renaming of classes has to add to the accuracy


class _Noting:
    """An evaluator that also counts which class is taken for which."""

    def __init__(self, evaluator: Any, classes: int) -> None:
        self.evaluator, self.metrics = evaluator, evaluator.metrics
        self.counts = torch.zeros(classes, classes)

    def process(self, data_samples: Any, data_batch: Any) -> None:
        count_classes(self.counts, data_samples, data_batch['data_samples'])
        self.evaluator.process(data_samples=data_samples, data_batch=data_batch)

    def evaluate(self, size: int) -> dict:
        return self.evaluator.evaluate(size)


def count_classes(counts: Tensor, predicted: Any, truth: Any) -> None:
    """Add to ``(K, K)`` how often class i (row) was taken for j."""
    for guess, sample in zip(predicted, truth, strict=True):
        pairs = _pairs(guess, sample)
        for i, j in pairs:
            if 0 <= i < len(counts) and 0 <= j < len(counts):
                counts[i, j] += 1


def _pairs(guess: Any, sample: Any) -> list[tuple[int, int]]:
    """True and predicted class of an image, or of every box that was found."""
    if 'pred_score' in guess and 'gt_label' in sample:
        if sample.gt_label.numel() != 1:
            return []
        return [(int(sample.gt_label), int(guess.pred_score.argmax()))]
    if 'pred_instances' not in guess or 'gt_instances' not in sample:
        return []
    boxes = torch.as_tensor(_tensor(sample.gt_instances.bboxes)).cpu()
    found = guess.pred_instances
    if not len(boxes) or not len(found.bboxes):
        return []
    guesses = _tensor(found.bboxes).cpu()
    # predictions are in pixels of the file, the truth is where boxes are not resized
    scale = torch.tensor(guess.metainfo.get('scale_factor', (1, 1))[:2]).repeat(2)
    overlap = box_iou(boxes, guesses).maximum(box_iou(boxes, guesses * scale))
    scores = found.scores.cpu() * (overlap > 0.5)
    best, which = scores.max(1)
    labels = sample.gt_instances.labels
    return [
        (int(labels[i]), int(found.labels[which[i]]))
        for i in range(len(boxes))
        if best[i] > 0.05
    ]


def _tensor(boxes: Any) -> Tensor:
    return getattr(boxes, 'tensor', boxes)


def weights(patient: Patient) -> Iterator[Finding]:
    """Is every teacher a trained network, in eval mode and frozen?"""
    if patient.guide is None:
        yield fine('teacher mode', 'the student teaches itself')
    for name, guide in patient.guides.items():
        yield _mode(f'{name} mode', guide.model)
        if patient.teacher_known:
            yield _weights(f'{name} weights', guide.model)


def _mode(check: str, teacher: nn.Module) -> Finding:
    training = [n or 'the teacher' for n, m in teacher.named_modules() if m.training]
    if training:
        return wrong(
            check,
            f'{len(training)} modules are in training mode ({training[0]}, ...): '
            'dropout and batch statistics change its features',
            'find what calls train() on it (a hook, an overridden train())',
        )
    if any(p.requires_grad for p in teacher.parameters()):
        return wrong(check, 'the teacher is not frozen', 'leave it alone')
    return fine(check, 'in eval mode, frozen')


def _weights(check: str, teacher: nn.Module) -> Finding:
    remedy = 'is this the checkpoint of the trained teacher?'
    values = [(n, p) for n, p in teacher.named_parameters() if p.ndim > 1]
    if lost := [n for n, p in values if not p.isfinite().all()]:
        return wrong(
            check, f'{len(lost)} tensors are NaN or infinite ({lost[0]})', remedy
        )
    if zero := [n for n, p in values if not p.any()]:
        verdict = wrong if 2 * len(zero) > len(values) else look
        text = f'{len(zero)} of {len(values)} tensors are all zeros ({zero[0]})'
        return verdict(check, text, remedy)
    norms = [m for m in teacher.modules() if isinstance(m, _BatchNorm)]
    tracked = [m for m in norms if m.running_mean is not None]
    unseen = [
        m
        for m in tracked
        if not m.running_mean.any() and bool((m.running_var == 1).all())
    ]
    if tracked and 2 * len(unseen) > len(tracked):
        text = (
            f'{len(unseen)} of {len(tracked)} batch normalisations have never seen an '
            'image (mean 0, variance 1): the network is untrained'
        )
        return wrong(check, text, remedy)
    dead = [m for m in tracked if bool((m.running_var < 1e-12).all())]
    if dead:
        text = f'{len(dead)} batch normalisations have variance 0: nothing arrives'
        return wrong(check, text, remedy)
    return fine(check, f'finite, {len(tracked)} batch normalisations with statistics')


def metrics(patient: Patient) -> Iterator[Finding]:
    """The teacher's metric beside the student's, on the same validation images."""
    loader = patient.validation
    if loader is None:
        yield look(
            'metric',
            'the config has no validation, so nobody knows whether the teacher is good',
            'give val_dataloader and val_evaluator',
        )
        return
    guides = patient.guides
    networks = {name: guide.model for name, guide in guides.items()}
    networks['student'] = patient.model
    classes = max(1, *map(classes_of, networks.values()))
    found, counts = {}, {}
    for side, model in networks.items():
        exact = patient.exact_teacher(guides.get(side))
        try:
            with exact, _evaluated(patient, model) as evaluator:
                noting = _Noting(evaluator, classes)
                values = evaluate(model, loader, noting)
        except Exception as error:  # noqa: BLE001  (foreign metrics on foreign classes)
            yield look(
                f'{side} metric',
                f'it cannot be evaluated on the validation set: {error!r:.200}',
                'has it the classes of the data set?',
            )
            continue
        found[side] = next(iter(values.items()), ('metric', math.nan))
        counts[side] = noting.counts
    for side in guides:
        same = classes_of(networks[side]) == classes_of(patient.model)
        if side in found and patient.teacher_known and same:
            yield _compared(patient, side, found, len(loader.dataset))
    for side in counts:
        if side in guides and patient.teacher_known or patient.student_trained:
            yield from permuted(counts[side], f'{side} labels', 'validation')


@contextmanager
def _evaluated(patient: Patient, model: nn.Module) -> Iterator[Any]:
    """The network in eval mode; gives the evaluator, asked about these images."""
    evaluator: Any = patient.runner.val_loop.evaluator
    subset: Any = patient.validation.dataset  # type: ignore[union-attr]
    evaluator.dataset_meta = getattr(subset.dataset, 'metainfo', None)
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):  # COCO's counts images it was not shown
            infos = [subset.dataset.get_data_info(i) for i in subset.indices]
            metric.img_ids = [info['img_id'] for info in infos]
    with undisturbed(model):
        yield evaluator


def _compared(patient: Patient, side: str, found: dict, images: int) -> Finding:
    check = 'metric' if side == 'teacher' else f'{side} metric'
    name, teacher = found[side]
    scale = 100 if 'accuracy' in name or teacher > 1 else 1
    error = scale * math.sqrt(0.25 / images)
    chance = 2 * error + scale / max(classes_of(patient.model), 2)  # as the teacher's
    if 'mAP' in name:
        chance = 0.005 * scale
    text = f'{name} on {images} validation images: teacher {teacher:.4g}'
    if not teacher > chance:
        return wrong(
            check,
            f'{text}, which is what chance gives',
            'wrong checkpoint, label order, colour order or image range: see below; '
            'teacher=dict(validate=True) evaluates on all images',
        )
    if 'student' not in found:
        return fine(check, text)
    student = found['student'][1]
    text += f', student {student:.4g}'
    if not patient.student_trained:
        text += ' (at its start)'
    elif not student > chance:
        return wrong(
            check,
            f'{text}, which is what chance gives',
            "is it the student's checkpoint, and are its images normalised?",
        )
    if student >= teacher:
        return look(
            check,
            f'{text}: the teacher is not better',
            'take a better teacher; is it evaluated as it was trained (image size, '
            'classes)?',
        )
    if patient.student_trained and teacher - student < error:
        return look(
            check,
            f'{text}: within what {images} images tell apart (± {error:.2g})',
            'look at more --images; there may be little to learn from this teacher',
        )
    return fine(check, text)


def permuted(counts: Tensor, check: str, where: str) -> Iterator[Finding]:
    """Whether classes have other numbers for the network than for the data."""
    total = float(counts.sum())
    if total < 2 * len(counts):
        return
    accuracy = float(counts.diag().sum()) / total
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    best = float(counts[rows, columns].sum()) / total
    moved = [(i, j) for i, j in zip(rows, columns) if i != j and counts[i, j] > 1]
    if best - accuracy > PERMUTED and moved:
        pairs = ', '.join(f'{i} -> {j}' for i, j in moved[:4])
        yield wrong(
            check,
            f'on {where} images the classes have another order for the network: '
            f'{accuracy:.0%} right as they are, {best:.0%} with {pairs}, ...',
            'order classes (metainfo) as the network was trained',
        )
    else:
        yield fine(
            check, f'{accuracy:.0%} of what it finds on {where} images is named right'
        )


def classes(patient: Patient) -> Iterator[Finding]:
    """Numbers and names of classes: teacher, student, data set."""
    dataset = patient.runner.train_dataloader.dataset
    names = names_of(dataset)
    ours, theirs = classes_of(patient.model), classes_of(patient.teacher)
    check = 'classes'
    text = f'data set {len(names) if names else "?"}, student {ours}, teacher {theirs}'
    if differing(patient.model, dataset):
        yield wrong(check, text, "set num_classes of the student's head")
        return
    if ours and theirs and ours != theirs:
        yield look(
            check,
            f'{text}: the teacher was made for other classes',
            'its metric means nothing here; compare features, not logits',
        )
        return
    own = _trained_on(patient)
    if own and names and list(own) != list(names):
        pairs = ((a, b) for a, b in zip(own, names) if a != b)
        a, b = next(pairs, (len(own), len(names)))
        verdict = wrong if sorted(map(str, own)) == sorted(map(str, names)) else look
        yield verdict(
            check,
            'the teacher was trained with other class names than the data set has '
            f'({a!r} in place of {b!r})',
            'give both the same metainfo.classes, in the same order',
        )
        return
    yield fine(check, text)


def _trained_on(patient: Patient) -> Any:
    """Class names in the teacher's checkpoint, where they were kept."""
    teacher = patient.cfg.model.teacher
    teacher = teacher if isinstance(teacher, dict) else {}
    path = str(teacher.get('checkpoint') or '')
    if not path or '://' in path:
        return None
    try:
        path = find_file(path, key='teacher.checkpoint')
        trust = bool(teacher.get('trust'))
        content = read_checkpoint(path, key='teacher.checkpoint', trust=trust)
    except ConfigError:
        return None
    meta = content.get('meta') if isinstance(content, dict) else None
    about = (meta or {}).get('dataset_meta') or {}
    return about.get('classes') or about.get('CLASSES')


def truth(patient: Patient) -> Iterator[Finding]:
    """Is there ground truth in what training sees, and does the teacher agree?"""
    batches = patient.batches
    samples = [s for batch in batches for s in batch['data_samples']]
    labels = [_labels(s) for s in samples]
    empty = sum(not len(found) for found in labels)
    kind = 'boxes' if any('gt_instances' in s for s in samples) else 'a label'
    check = 'ground truth'
    tasks = any(hasattr(s, 'tasks') for s in samples)  # each has classes of its own
    number = 0 if tasks else classes_of(patient.model)
    flat = torch.cat([f.flatten().float().cpu() for f in labels]) if labels else None
    if empty == len(samples):
        yield wrong(
            check,
            f'none of {len(samples)} training images has {kind}',
            'look at the annotation file, metainfo.classes and LoadAnnotations',
        )
    elif (
        number
        and flat is not None
        and flat.dtype.is_floating_point
        and (float(flat.max()) >= number or float(flat.min()) < 0)
    ):
        yield wrong(
            check,
            f'labels go from {flat.min():g} to {flat.max():g}, and the student has '
            f'{number} classes',
            "set num_classes of the student's head, or metainfo.classes",
        )
    elif 2 * empty > len(samples):
        yield look(
            check,
            f'{empty} of {len(samples)} training images have no {kind}',
            'are metainfo.classes and filter_cfg right?',
        )
    else:
        yield fine(
            check, f'{len(samples) - empty} of {len(samples)} images have {kind}'
        )
    if patient.teacher_known:
        yield from _on_training_images(patient)


def _labels(sample: Any) -> Tensor:
    if tasks := getattr(sample, 'tasks', ()):  # MMPretrain's MultiTaskDataSample
        return torch.cat([_labels(sample.get(task)).flatten() for task in tasks])
    if 'gt_instances' in sample:
        return torch.as_tensor(sample.gt_instances.labels)
    if 'gt_score' in sample and 'gt_label' not in sample:
        return sample.gt_score.argmax()[None]
    return sample.gt_label if 'gt_label' in sample else torch.zeros(0)


@torch.no_grad()
def _on_training_images(patient: Patient) -> Iterator[Finding]:
    """The teacher's guesses on training images, as labels are there."""
    number = classes_of(patient.teacher)
    if not number or number != classes_of(patient.model):
        return
    counts = torch.zeros(number, number)
    with kept_random(patient.device), patient.exact_teacher() as teacher:
        for batch in patient.batches:  # labels as the pipeline of training leaves them
            count_classes(counts, teacher.val_step(batch), batch['data_samples'])
    yield from permuted(counts, 'training labels', 'training')
