"""Links found by themselves: from a method's name and two networks to a dict."""

from collections.abc import Sequence
from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError
from ..sizes import Size
from ..teacher import Teacher
from .candidates import Candidate, class_scores, feeding_heads, stages_of
from .match import Match, match
from .methods import (
    AUTOS,
    OF_STAGES,
    check_method,
    feature_link,
    logits_link,
    parts_of,
    vector_link,
)
from .survey import Survey, survey

# Part of the gradient at features, of every link, so that no weight is a guess; held
# to the end: on the digits one that falls cost 3 to 9 mAP. Our choice, on other seeds
# than those reported: benchmarks/plan.md.
SHARE_OF_DETECTORS, SHARE_OF_CLASSIFIERS = 0.9, 0.8


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
            those that the networks are made for, until one works.

    Returns:
        dict[str, dict]: What ``links`` of :func:`kd_mm.distill.Distill` takes.

    Raises:
        ConfigError: If there is no such method, a network cannot be tried, or nothing
            of both can be compared; names the candidates of both sides.
    """
    check_method(method)
    search = _Search(method, survey(student, guide, size=size))
    for part in parts_of(
        method, classifier=search.classifier, same_classes=search.same_classes
    ):
        if part == 'features':
            search.features()
        else:
            search.vectors(part)
    # in the order in which a dumped config has them, so that both are one training
    links = {name: search.links[name] for name in sorted(search.links)}
    MMLogger.get_current_instance().info(
        f'kd_mm: links={method!r} found\n  '
        + '\n  '.join(search.said)
        + f'\nwhich is the same as\n{_as_code(links)}'
    )
    return links


class _Search:
    """What a method makes of two surveyed networks.

    Args:
        method (str): Its name.
        sides (tuple[Survey, Survey]): Student and teacher.
    """

    def __init__(self, method: str, sides: tuple[Survey, Survey]) -> None:
        self.method, self.sides = method, sides
        self.scores = [class_scores(side) for side in sides]
        self.classes = [s.levels[0].width if s else 0 for s in self.scores]
        self.classifier = bool(self.classes[0])
        self.same_classes = self.classifier and len(set(self.classes)) == 1
        target = SHARE_OF_CLASSIFIERS if self.classifier else SHARE_OF_DETECTORS
        self.share = dict(target=target, falls_to=1.0)
        self.links: dict[str, dict[str, Any]] = {}
        self.said: list[str] = []  # for the log
        if method in AUTOS and all(self.classes) and not self.same_classes:
            self.said.append(
                'no link between class scores: {} and {} classes'.format(*self.classes)
            )

    def features(self) -> None:
        """Add the link between features; it is no must beside one of class scores."""
        last_only = all(self.classes)
        places = [feeding_heads(side) for side in self.sides]
        found = match(*places, last_only=last_only)
        if found is None:
            text = (
                f'nothing in front of the heads can be compared; {self._there(places)}'
            )
            if not self.links:
                raise ConfigError(
                    f'links={self.method!r}: {text}; say what to compare: links='
                    'dict(NAME=dict(student=..., teacher=..., criterion=...))'
                )
            self.said.append(f'no link between features: {text}')
            return
        if last_only and self.method in OF_STAGES:
            ends = zip(self.sides, (found.student, found.teacher), strict=True)
            student, teacher = ([stages_of(side, end)] for side, end in ends)
            found = match(student, teacher, last_only=False) or found
        link = feature_link(
            self.method,
            found,
            classes=self.classes[1],
            scores=self.scores[1].specs[0] if self.scores[1] else '',
            classifier=self.classifier,
        )
        self.links['features'] = _taps(found) | link | dict(share=dict(self.share))
        self.said += found.describe()

    def vectors(self, part: str) -> None:
        """Add the link between class scores, or between what they are made of."""
        student, teacher = self.scores
        if not (student and teacher) or (part == 'logits' and not self.same_classes):
            places = [[score] if score else [] for score in self.scores]
            raise ConfigError(
                f'links={self.method!r} compares the class scores of whole images, of '
                f'as many classes on both sides: {self._there(places)}; '
                "links='auto' compares features"
            )
        before = '@input' if part == 'vector' else ''
        taps = dict(
            student=f'{student.specs[0]}{before}', teacher=f'{teacher.specs[0]}{before}'
        )
        if part == 'vector':
            link = vector_link()
        else:
            sigmoid = self.sides[0].sigmoid
            link = logits_link(self.method, classes=self.classes[0], sigmoid=sigmoid)
        self.links[part] = taps | link | dict(share=dict(self.share))
        self.said.append(' <- '.join(taps.values()))

    def _there(self, places: Sequence[list[Candidate]]) -> str:
        return '; '.join(
            f'{side.owner} {side.name}: {_listed(found)}'
            for side, found in zip(self.sides, places, strict=True)
        )


def _listed(places: list[Candidate]) -> str:
    return '; '.join(place.describe() for place in places) or 'none'


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
