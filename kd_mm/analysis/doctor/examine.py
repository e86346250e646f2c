"""All checks in order, and how long they will take."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmengine.config import Config

from ...auto import AUTO
from ...errors import ConfigError
from ...link import Link
from ...unaugmented import feature_pairs, undisturbed
from ...utils.kinds import default_scope
from ...utils.randomness import kept_random
from . import course, features, forms, inputs, knowledge, precision, state
from .finding import Finding, fine, look, wrong
from .patient import BATCHES, Patient, admit

Check = Callable[[Patient], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    knowledge.weights,
    knowledge.classes,
    knowledge.truth,
    knowledge.metrics,
    inputs.same_images,
    forms.statistics,
    features.features,
    state.reach,
    course.training,
    precision.half_precision,
    state.kept,
)


def examine(
    cfg: Config,
    *,
    student: str | None = None,
    images: int = 200,
    steps: int = 20,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Finding]:
    """Look whether the distillation of a config can work.

    Everything happens to copies in a temporary folder; the random state, the config
    and all files are left as they were.

    Args:
        cfg (Config): A config that distils.
        student (str, optional): Checkpoint of the student. Defaults to None, its start.
        images (int): How many images of each set are looked at. Defaults to 200.
        steps (int): Of the training on a copy; losses are compared from two passes over
            its batches on, 8 steps where there are four. Defaults to 20.
        tell (Callable): Is told how long it will take. Defaults to nothing.

    Returns:
        list[Finding]: In the order of the checks.
    """
    with tempfile.TemporaryDirectory() as folder, kept_random():
        with _silence():
            patient, findings = admit(
                cfg, str(Path(folder)), student=student, images=images, steps=steps
            )
        if patient is None:
            return findings
        # the patient's own config has the links themselves by now
        if isinstance(method := cfg.model.get('links', AUTO), str):
            findings.append(_found(method, patient.links))
        with default_scope(cfg):
            tell(f'about {forecast(patient)} for {images} images and {steps} steps')
            for check in CHECKS:
                with _silence():
                    findings += look_at(check, patient)
    return findings


def _found(method: str, links: dict[str, Link]) -> Finding:
    """What the name of a method has become, so that one knows what is looked at."""
    told = []
    for name, link in links.items():
        parts = ', '.join(type(m).__name__ for m in (*link.stages, link.criterion))
        student, teacher = (' '.join(link.specs[s]) for s in ('student', 'teacher'))
        weight = f'weight {link.criterion.weight:g}'
        held = weight if link.share is None else f'share {link.share.full:g}'
        told.append(f'{name} {parts} {student} <- {teacher}, {held}')
    return fine('links', f'{method}: {"; ".join(told)}')


def _silence() -> contextlib.AbstractContextManager:
    """COCO's tools print while they read and evaluate."""
    return contextlib.redirect_stdout(io.StringIO())


def look_at(check: Check, patient: Patient) -> list[Finding]:
    """The findings of one check; one that fails says so and stops no other."""
    name = check.__name__.replace('_', ' ')
    found: list[Finding] = []
    try:
        for finding in check(patient):
            found.append(finding)
    except ConfigError as error:
        found.append(wrong(name, str(error)))
    except Exception as error:  # noqa: BLE001  (of foreign models and metrics)
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
        found.append(look(name, f'this could not be looked at: {text}', 'is it yours?'))
    return found


def forecast(patient: Patient) -> str:
    """How long all checks will take, from one pass of both networks."""
    batch = patient.batches[0]
    names = list(patient.links)
    start = time.perf_counter()
    with undisturbed(patient.model), torch.no_grad():
        list(feature_pairs(patient.model, [batch], names, title='doctor'))
    each = (time.perf_counter() - start) / len(batch['inputs'])
    # passes over the images: features, channels, teacher, two metrics; a step is three
    trained = 2 * patient.steps + BATCHES
    seconds = each * (5 * patient.images + 3 * trained * len(batch['inputs']))
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} minutes'
