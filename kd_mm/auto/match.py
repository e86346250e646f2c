"""Which places of two networks to compare, level by level."""

import math
from dataclasses import dataclass

from ..pair import TOKENS
from .candidates import Candidate, Level

NEAR = 0.5  # octaves between two strides that count as one
CLOSE, FAR = 1.0, 2.0  # octaves that a Resize may bridge, at first and at all


@dataclass(frozen=True)
class Match:
    """Two candidates and the levels of theirs that are compared.

    Attributes:
        student (Candidate): Where the student is tapped.
        teacher (Candidate): Where the teacher is.
        pairs (tuple[tuple[int, int], ...]): Indices of levels, student's and teacher's.
    """

    student: Candidate
    teacher: Candidate
    pairs: tuple[tuple[int, int], ...]

    @property
    def levels(self) -> list[tuple[Level, Level]]:
        """The levels that are compared."""
        return [(self.student.levels[i], self.teacher.levels[j]) for i, j in self.pairs]

    def describe(self) -> list[str]:
        """One line a level, for the log."""
        return [
            f'{" ".join(self.student.specs)} {s.shape} stride {s.stride:g} <- '
            f'{" ".join(self.teacher.specs)} {t.shape} stride {t.stride:g}'
            for s, t in self.levels
        ]


def match(
    students: list[Candidate], teachers: list[Candidate], *, last_only: bool
) -> Match | None:
    """The last places in front of both networks' heads whose levels agree.

    Levels of one stride go together; where two places have none in common, the two
    that are nearest, if one has at most twice the stride of the other. Four times is
    too much while there are other places.

    Args:
        students (list[Candidate]): The likeliest first.
        teachers (list[Candidate]): The same.
        last_only (bool): Whether heads take the last level alone (classifiers).
    """
    combinations = [
        (students[i], teachers[rank - i])
        for rank in range(len(students) + len(teachers) - 1)
        for i in range(len(students))
        if 0 <= rank - i < len(teachers)
    ]
    if last_only:
        for student, teacher in combinations:
            ends = (len(student.levels) - 1, len(teacher.levels) - 1)
            found = Match(student, teacher, (ends,))
            if _comparable(*found.levels[0]):
                return found
        return None
    for octaves in (CLOSE, FAR):
        for student, teacher in combinations:
            pairs = _agreeing(student.levels, teacher.levels)
            pairs = pairs or _nearest(student.levels, teacher.levels, octaves)
            if pairs:
                return Match(student, teacher, pairs)
    return None


def _agreeing(
    students: tuple[Level, ...], teachers: tuple[Level, ...]
) -> tuple[tuple[int, int], ...]:
    """Levels of the same stride, in order, each once."""
    pairs: list[tuple[int, int]] = []
    for i, student in enumerate(students):
        free = [j for j in range(len(teachers)) if all(j != used for _, used in pairs)]
        fitting = [
            j
            for j in free
            if _comparable(student, teachers[j])
            and _octaves(student, teachers[j]) < NEAR
        ]
        if fitting:
            best = min(fitting, key=lambda j: _octaves(student, teachers[j]))
            pairs.append((i, best))
    return tuple(pairs)


def _nearest(
    students: tuple[Level, ...], teachers: tuple[Level, ...], most: float
) -> tuple[tuple[int, int], ...]:
    """The two levels whose strides are nearest, ``most`` octaves apart."""
    found = [
        (_octaves(s, t), i, j)
        for i, s in enumerate(students)
        for j, t in enumerate(teachers)
        if _comparable(s, t)
    ]
    octaves, i, j = min(found, default=(math.inf, 0, 0))
    return ((i, j),) if octaves <= most else ()


def _comparable(student: Level, teacher: Level) -> bool:
    """Two grids; or tokens without a grid, as many on both sides."""
    if student.stride and teacher.stride:
        return True
    both = {student.form, teacher.form} == {TOKENS}
    return both and student.shape[1] == teacher.shape[1]


def _octaves(student: Level, teacher: Level) -> float:
    if not student.stride or not teacher.stride:
        return 0.0
    return abs(math.log2(student.stride / teacher.stride))
