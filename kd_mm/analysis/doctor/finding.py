"""What the doctor says: one row per check."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

Verdict = Literal['fine', 'look', 'wrong']
COLOURS = dict(fine='green', look='yellow', wrong='red')


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check (str): What was looked at.
        verdict (str): 'fine'; 'look', unusual and perhaps meant; or 'wrong'.
        text (str): What was seen, one sentence.
        remedy (str): What to do about it; '' where nothing is.
    """

    check: str
    verdict: Verdict
    text: str
    remedy: str = ''


def fine(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, 'fine', text)


def look(check: str, text: str, remedy: str) -> Finding:
    """Unusual, and perhaps meant."""
    return Finding(check, 'look', text, remedy)


def wrong(check: str, text: str, remedy: str = '') -> Finding:
    """Cannot be meant."""
    return Finding(check, 'wrong', text, remedy)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The gravest verdict of several; 'fine' of none."""
    order: tuple[Verdict, ...] = tuple(COLOURS)  # type: ignore[arg-type]
    return max((f.verdict for f in findings), key=order.index, default='fine')


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Show the table, and in one line what it comes to."""
    table = Table(show_lines=True)
    table.add_column('check', no_wrap=True)
    table.add_column('')
    told = 'what was seen, and what to do about it'
    table.add_column(told, ratio=1, overflow='fold')
    for f in findings:
        colour = COLOURS[f.verdict]
        remedy = f'{f.remedy[:1].upper()}{f.remedy[1:]}'
        text = f'{f.text}. [b]{remedy}[/b]' if remedy else f.text
        table.add_row(f.check, f'[{colour}]{f.verdict}[/{colour}]', _plain(text))
    console.print(table)
    counts = {v: sum(f.verdict == v for f in findings) for v in COLOURS}
    console.print(', '.join(f'{n} {verdict}' for verdict, n in counts.items()))


def _plain(text: str) -> str:
    """Brackets of config keys are no markup, those of the remedy are."""
    text = text.replace('[', r'\[')
    return text.replace(r'\[b]', '[b]').replace(r'\[/b]', '[/b]')


def as_json(findings: Iterable[Finding]) -> list[dict]:
    """Rows for a file."""
    return [asdict(f) for f in findings]
