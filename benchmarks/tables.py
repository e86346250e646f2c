#!/usr/bin/env python
"""Fill the tables of docs/**/*.md from benchmarks/results/*.json.

    python benchmarks/tables.py            # writes the pages
    python benchmarks/tables.py --check    # exit code 1 if that would change one

A block of the page names a result file and what to show of it; what stands in it is
replaced:

    <!-- table: kcd_digits key=transform baseline=identity names=alone,identity -->
    <!-- /table -->

With `key`, rows of the file that differ only in the seed are averaged: mean ± standard
deviation over seeds, and the mean ± standard error of the difference to `baseline`,
paired by seed. There is a table for every combination of the settings in the file
(criterion, images, epochs, teacher ...), and a line for every one of `names`, blank
where it was not run; without `names` for all that were. `metrics` (default
mAP,mAP_50) are compared, and the first one is paired. `published` adds a column with
the literature's values of that entry of benchmarks/published.json.

`where` (epochs:8,images:600) takes the rows of these settings only.

With `key` and `pairs` ("a|b,c|b"), each line is a difference of two methods, a - b,
paired by seed. A comma with a space behind it belongs to a name.

With `starts`, what that metric becomes from every weight that hosts were started at,
without and with `share` (benchmarks/share.py).

With `columns`, the rows are shown as they are; with `count`, how many rows have which
value of that key. `at` names the entry of the file that
holds the rows, where it is not a list itself.

With `answers`, the paired difference that answers each question of the file
benchmarks/answers.json, and what it says: yes or no from three standard errors on.
"""

import argparse
import collections
import json
import re
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
RESULTS = ROOT / 'benchmarks' / 'results'
PUBLISHED = ROOT / 'benchmarks' / 'published.json'
QUESTIONS = ROOT / 'benchmarks' / 'answers.json'
SETTINGS = (
    'criterion', 'share', 'pair', 'student', 'teacher', 'images', 'before', 'epochs',
)  # fmt: skip
BLOCK = re.compile(r'(<!-- table: (.+?) -->\n).*?(<!-- /table -->)', re.DOTALL)


def fill(text: str, results: Path = RESULTS) -> str:
    """The page with every block written anew."""
    return BLOCK.sub(lambda m: f'{m[1]}\n{block(m[2], results)}\n{m[3]}', text)


def block(marker: str, results: Path) -> str:
    """The table that a marker asks for."""
    name, *words = shlex.split(marker)
    options = dict(word.split('=', 1) for word in words)
    path = results / f'{name}.json'
    rows = json.loads(path.read_text()) if path.is_file() else []
    if at := options.pop('at', None):
        rows = rows[at] if rows else []
    for setting in filter(None, options.pop('where', '').split(',')):
        key, value = setting.split(':')
        rows = [row for row in rows if str(row.get(key)) == value]
    if options.pop('answers', None):
        return table(*answers(results))
    if 'columns' in options:
        return listed(rows, **options)
    if 'count' in options:
        return counted(rows, **options)
    if 'starts' in options:
        return table(*starts(rows, metric=options['starts']))
    if 'pairs' in options:
        return differences(rows, **options)
    return compared(rows, **options)


def listed_in(text: str) -> list[str]:
    """Names between commas; one with a space behind it belongs to a name."""
    return re.split(',(?! )', text)


def differences(rows: list[dict], *, key: str, pairs: str, metric: str) -> str:
    """What a method adds to another."""
    lines = []
    for method, host in (pair.split('|') for pair in listed_in(pairs)):
        _, seeds, *_, gain = summary(
            [r for r in rows if r[key] in (method, host)], key, method, host, metric
        )
        lines.append([method, host, seeds, gain])
    head = f'difference in {metric} (± standard error)'
    return table([key, 'beside', 'seeds', head], lines)


def gains(
    rows: list[dict], method: str, host: str, metric: str, key: str = 'method'
) -> list[float]:
    """Differences of two methods, seed by seed."""
    done = [row for row in rows if metric in row]
    own, base = (
        {row['seed']: row[metric] for row in done if row[key] == name}
        for name in (method, host)
    )
    return [own[seed] - base[seed] for seed in own if seed in base]


def answered(results: Path) -> Iterator[tuple[dict, list[float]]]:
    """Every question, and the differences that answer it."""
    for asked in json.loads(QUESTIONS.read_text()):
        path = results / f'{asked["file"]}.json'
        rows = json.loads(path.read_text()) if path.is_file() else []
        rows = [row for row in rows if asked.get('where', {}).items() <= row.items()]
        yield asked, gains(rows, asked['method'], asked['beside'], asked['metric'])


def answers(results: Path) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the questions, blank where nothing was run."""
    lines = []
    for asked, found in answered(results):
        cells = ['', '', '']
        if found:
            cells = [str(len(found)), f'{statistics.mean(found):+.2f}', 'one seed']
        if len(found) > 1:
            error = statistics.stdev(found) / len(found) ** 0.5
            cells[1:] = [f'{cells[1]} ± {error:.2f}', verdict(found, error)]
        pair = f'{asked["method"]} - {asked["beside"]}'
        link = f'[{asked["asks"]}]({asked["page"]})'
        lines.append([link, pair, *cells])
    heads = ['question', 'compared', 'seeds', 'mAP or top-1, points']
    return [*heads, 'answer'], lines


def verdict(found: list[float], error: float) -> str:
    """What a mean of paired differences says; see benchmarks/plan.md."""
    mean = statistics.mean(found)
    if len(found) < 5:
        return 'too few seeds'
    if abs(mean) >= 3 * error:
        return '**yes**' if mean > 0 else '**no, it costs**'
    if abs(mean) >= 2 * error:
        return 'a hint' if mean > 0 else 'a hint that it costs'
    return 'no difference seen'


def listed(rows: list[dict], *, columns: str) -> str:
    """Rows as they are."""
    keys = columns.split(',')
    return table(
        [key.replace('_', ' ') for key in keys],
        [[as_text(row.get(key)) for key in keys] for row in rows],
    )


def counted(rows: list[dict], *, count: str) -> str:
    """How many rows have which value."""
    found = collections.Counter(as_text(row.get(count)) for row in rows)
    return table([count, 'rows'], [[k, str(n)] for k, n in found.most_common()])


def starts(rows: list[dict], *, metric: str) -> tuple[list[str], list[list[str]]]:
    """Hosts at many weights, each without and with a share; heads and lines.

    A run that diverged counts as 0. With a share, all starts have to be within one
    standard deviation of the best weight without one.
    """
    factors = sorted({row['start'] for row in rows if row['start']})
    lines = []
    for host in dict.fromkeys(row['host'] for row in rows):
        found: dict[tuple[float, float], list[float]] = {}
        for row in (row for row in rows if row['host'] == host):
            cell = found.setdefault((row['share'], row['start']), [])
            cell.append(row.get(metric, 0.0))
        means = {key: statistics.mean(values) for key, values in found.items()}
        plain = [key for key in means if not key[0]]
        best = max(plain, key=lambda key: means[key]) if plain else None
        for share in sorted({key[0] for key in found}):
            cells = [spread(found.get((share, factor), [])) for factor in factors]
            verdict = ''
            if best and not share:
                verdict = f'best: {spread(found[best])}'
            elif best and len(found[best]) > 1:
                least = means[best] - statistics.stdev(found[best])
                held = [mean for key, mean in means.items() if key[0]]
                count = sum(mean >= least for mean in held)
                verdict = f'{count} of {len(held)}'
            lines.append([host, f'{share:g}' if share else '', *cells, verdict])
    heads = ['host', 'share', *(f'weight x {factor:g}' for factor in factors)]
    return [*heads, 'within one sd of the best'], lines


def compared(
    rows: list[dict],
    *,
    key: str,
    baseline: str,
    names: str = '',
    metrics: str = 'mAP,mAP_50',
    published: str = '',
) -> str:
    """One table per combination of settings, averaged over seeds."""
    papers = json.loads(PUBLISHED.read_text())[published] if published else {}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        about = tuple((k, row[k]) for k in SETTINGS if k in row)
        groups.setdefault(about, []).append(row)
    parts = []
    for about, group in (groups or {(): []}).items():
        caption = ', '.join(f'{k} {as_text(v)}' for k, v in about)
        if caption:
            caption = f'{caption[0].upper()}{caption[1:]}:\n\n'
        found = dict.fromkeys([baseline, *(row[key] for row in group)])
        order = listed_in(names) if names else found
        lines = [summary(group, key, name, baseline, metrics) for name in order]
        heads = metrics.split(',')
        heads = [key, 'seeds', *heads, f'{heads[0]} - {baseline} (± standard error)']
        if published:
            heads.append('published')
            lines = [[*line, papers.get(line[0], '')] for line in lines]
        parts.append(caption + table(heads, lines))
    return '\n'.join(parts)


def summary(
    rows: list[dict], key: str, name: str, baseline: str, metrics: str
) -> list[str]:
    """One line of a comparison."""
    every = [row for row in rows if row[key] == name]
    own = {row['seed']: row for row in every if 'failed' not in row}
    failed = len(every) - len(own)
    if not own:
        if failed:
            return [name, f'0 ({failed} failed)', *[''] * (len(metrics.split(',')) + 1)]
        return [name, *[''] * (len(metrics.split(',')) + 2)]
    first = metrics.split(',')[0]
    found = [] if name == baseline else gains(rows, name, baseline, first, key)
    paired = ''
    if found:
        paired = f'{statistics.mean(found):+.2f}'
        if len(found) > 1:
            paired += f' ± {statistics.stdev(found) / len(found) ** 0.5:.2f}'
        if len(found) < len(own):
            paired += f' ({len(found)} pairs)'
    means = [spread([row[m] for row in own.values()]) for m in metrics.split(',')]
    seeds = f'{len(own)} ({failed} failed)' if failed else str(len(own))
    return [name, seeds, *means, paired]


def spread(values: list[float]) -> str:
    """``mean ± standard deviation``."""
    if not values:
        return ''
    text = f'{statistics.mean(values):.2f}'
    return text if len(values) < 2 else f'{text} ± {statistics.stdev(values):.2f}'


def as_text(value) -> str:
    """A cell; nothing for what a row does not have."""
    if value is None:
        return ''
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.3g}'
    if isinstance(value, list):
        return ' / '.join(map(as_text, value))
    return str(value)


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    rows = [heads, ['---'] * len(heads), *lines]
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def refresh(*, check: bool = False) -> bool:
    """Bring the pages up to date; whether one was not."""
    stale = False
    for page in PAGES:
        before = page.read_text()
        after = fill(before)
        if before != after and not check:
            page.write_text(after)
        stale |= before != after
    return stale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    check = parser.parse_args().check
    return int(refresh(check=check) and check)


if __name__ == '__main__':
    sys.exit(main())
