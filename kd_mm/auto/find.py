"""Links found by themselves: from a method's name and two networks to a dict."""

from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError
from ..sizes import Size
from ..teacher import Teacher
from .candidates import Candidate, class_scores, feeding_heads
from .match import Match, match
from .methods import check_method, feature_link, logits_link, parts_of, vector_link
from .survey import Survey, survey

SHARE = 0.5  # of the gradient at the features, of every link: no weight is a guess


def find_links(
    student: nn.Module, guide: Teacher, method: str, *, size: Size | None
) -> dict[str, dict[str, Any]]:
    """Explicit links of a method between two networks.

    Both networks see random images once. Compared is what feeds their heads, level by
    level of one stride, and where heads score the same number of classes the scores.
    Depends on nothing but the networks and the size of the images.

    Args:
        student (nn.Module): The student, not yet distilled.
        guide (Teacher): The teacher.
        method (str): 'auto', or the name of a method.
        size (tuple[int, int], optional): Height and width of the trial images; None:
            those of :func:`kd_mm.sizes.candidates`, until one works.

    Returns:
        dict[str, dict]: What ``links`` of :func:`kd_mm.distill.Distill` takes.

    Raises:
        ConfigError: If there is no such method, a network cannot be tried, or nothing
            of both can be compared; names the candidates of both sides.
    """
    check_method(method)
    sides = survey(student, guide, size=size)
    scores = [class_scores(side) for side in sides]
    classes = [s.levels[0].shape[1] if s else 0 for s in scores]
    classifier = bool(classes[0])
    same_classes = classifier and classes[0] == classes[1]
    links: dict[str, dict[str, Any]] = {}
    said: list[str] = []
    for part in parts_of(method, classifier=classifier, same_classes=same_classes):
        if part == 'features':
            found = _features(method, sides, last_only=classifier and bool(classes[1]))
            link = feature_link(
                method,
                found,
                classes=classes[1],
                scores=scores[1].specs[0] if scores[1] else '',
                classifier=classifier,
            )
            links['features'] = _taps(found) | link | dict(share=SHARE)
            said += found.describe()
            continue
        if not same_classes and part == 'logits' or not all(scores):
            raise ConfigError(_no_scores(method, sides, scores))
        before = '@input' if part == 'vector' else ''
        link = (
            vector_link()
            if part == 'vector'
            else logits_link(method, classes=classes[0], sigmoid=sides[0].sigmoid)
        )
        taps = [f'{s.specs[0]}{before}' for s in scores if s]
        links[part] = dict(student=taps[0], teacher=taps[1], share=SHARE, **link)
        said.append(f'{taps[0]} <- {taps[1]} ({classes[0]} classes)')
    # in the order in which a dumped config has them, so that both are one training
    links = {name: links[name] for name in sorted(links)}
    _tell(method, links, said, classes)
    return links


def _features(method: str, sides: tuple[Survey, Survey], *, last_only: bool) -> Match:
    candidates = [feeding_heads(side) for side in sides]
    found = match(*candidates, last_only=last_only)
    if found is None:
        there = '; '.join(
            f'{side.owner} {side.name}: {_listed(places)}'
            for side, places in zip(sides, candidates, strict=True)
        )
        raise ConfigError(
            f'links={method!r}: no two features in front of the heads can be compared; '
            f'{there}; say what to compare: links=dict(NAME=dict(student=..., '
            'teacher=..., criterion=...))'
        )
    return found


def _listed(places: list[Candidate]) -> str:
    return '; '.join(place.describe() for place in places) or 'none'


def _no_scores(
    method: str, sides: tuple[Survey, Survey], scores: list[Candidate | None]
) -> str:
    there = ', '.join(
        f'{side.owner} {side.name}: {score.describe() if score else "none"}'
        for side, score in zip(sides, scores, strict=True)
    )
    return (
        f'links={method!r} compares the class scores of whole images, of as many '
        f"classes on both sides: {there}; links='auto' compares features"
    )


def _taps(found: Match) -> dict[str, Any]:
    """``student``, ``teacher`` and, where not all are compared, ``levels``."""
    sides = dict(student=found.student, teacher=found.teacher)
    taps: dict[str, Any] = {}
    levels: dict[str, list[int]] = {}
    for (side, place), chosen in zip(
        sides.items(), zip(*found.pairs, strict=True), strict=True
    ):
        if len(place.specs) == len(place.levels):
            specs = [place.specs[i] for i in chosen]
            chosen = tuple(range(len(specs)))
        else:
            specs = list(place.specs)
        taps[side] = specs[0] if len(specs) == 1 else specs
        levels[side] = list(chosen)
    counts = (
        len(found.pairs) if len(p.specs) == len(p.levels) else len(p.levels)
        for p in sides.values()
    )
    if all(levels[side] == list(range(n)) for side, n in zip(sides, counts)):
        return taps
    same = levels['student'] == levels['teacher']
    return taps | dict(levels=levels['student'] if same else levels)


def _tell(
    method: str, links: dict[str, Any], said: list[str], classes: list[int]
) -> None:
    if all(classes) and classes[0] != classes[1] and method == 'auto':
        said = [
            *said,
            f'no link between class scores: {classes[0]} and {classes[1]} classes',
        ]
    MMLogger.get_current_instance().info(
        f'kd_mm: links={method!r} found\n  '
        + '\n  '.join(said)
        + f'\nwhich is the same as\n{_as_code(links)}'
    )


def _as_code(links: dict[str, dict]) -> str:
    """Links as they would stand in a config: one line an option, one a stage."""
    rows = ['links=dict(']
    for name, link in links.items():
        rows.append(f'    {name}=dict(')
        for option, value in link.items():
            if option == 'stages':
                stages = ''.join(f'            {_code(s)},\n' for s in value)
                rows.append(f'        stages=[\n{stages}        ],')
            else:
                rows.append(f'        {option}={_code(value)},')
        rows.append('    ),')
    return '\n'.join([*rows, ')'])


def _code(value: Any) -> str:
    if not isinstance(value, dict):
        return repr(value)
    return f'dict({", ".join(f"{k}={_code(v)}" for k, v in value.items())})'
