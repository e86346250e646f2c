#!/usr/bin/env python
"""Distils pairs of packaged configs by `links='auto'` and writes docs/families.md.

    python benchmarks/auto_pairs.py                  # what has no row yet
    python benchmarks/auto_pairs.py --only across --again
    python benchmarks/auto_pairs.py --list

The pairs are in auto_pairs.txt. Both networks have random weights; nothing but their
configs is said. A pair trains by SGD on one batch of two random images, with the same
random numbers (dropout, proposals) in every step. In steps 0 and 2 the share is
measured and the student gets nothing of the links; over steps 1 to 3 their loss has to
fall. Every pair has a process of its own, with limits on time and memory. Rows are
written one by one, so a run that was stopped goes on.
"""

import argparse
import copy
import functools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import families
import mmpretrain
import numpy as np
import torch
from families import (
    batches,
    in_one_line,
    in_own_process,
    packaged,
    plain_config,
    scope_of,
    step,
)
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from steps import store
from tables import refresh
from torch import nn

from kd_mm import sizes
from kd_mm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / 'benchmarks/results/auto_pairs.json'
LIST = ROOT / 'benchmarks/auto_pairs.txt'
BEFORE, AFTER = 1, 4  # steps 1 and 3 are no probes


def pairs() -> Iterator[dict]:
    """Kind, student and teacher, as ``package::family/file.py``."""
    kind = ''
    for line in LIST.read_text().splitlines():
        if line.startswith('#'):
            kind = line.split()[1]
        else:
            yield _row(kind, *line.split())


def _row(kind: str, package: str, student: str, teacher: str) -> dict:
    student, teacher = (f'{package}::{name}.py' for name in (student, teacher))
    return dict(
        config=f'{student} <- {teacher}', kind=kind, student=student, teacher=teacher
    )


def examine(row: dict) -> dict:
    """A row: what is found, and whether it trains."""
    try:
        cfg, theirs = packaged(row['student']), packaged(row['teacher'])
        student, teacher = plain_config(cfg), plain_config(theirs)
        scope = scope_of(cfg, row['student'])
        loader = sizes.data_of_run((cfg.get('train_dataloader') or {}).copy())
        with scope, loader:
            return row | distilled(student, teacher)
    except Exception as error:
        return row | dict(result='cannot run here', reason=in_one_line(error))


def distilled(student: ConfigDict, teacher: ConfigDict) -> dict:
    """Result, what was found, and the links' loss before and after two steps."""
    cfg = ConfigDict(
        type='kd_mm.Distill',
        student=student,
        teacher=dict(config=teacher, allow_random=True),
        links='auto',
    )
    found: dict = {}
    try:
        model = MODELS.build(copy.deepcopy(cfg))
        found['found'] = _told(model.distiller.links_config)
        model.init_weights()
        model.distiller.teacher.model.init_weights()
        losses, reason = train(model)
    except ConfigError as error:
        refused = found | dict(result='refused', reason=in_one_line(error))
        return cannot(student, teacher, refused)
    except Exception as error:
        result = families.fault(error)
        failed = found | dict(result=result, reason=in_one_line(error))
        return cannot(student, teacher, failed)
    if reason:
        return cannot(student, teacher, found | dict(result='failed', reason=reason))
    first, last = losses[BEFORE], losses[AFTER]
    falls = last < first and all(map(math.isfinite, losses))
    found |= dict(losses=losses, fall=float(f'{1 - last / first:.3g}'))
    return found | dict(result='trains' if falls else 'does not fall', reason='')


def cannot(student: ConfigDict, teacher: ConfigDict, row: dict) -> dict:
    """The row, unless the fault is not ours: the plain networks do not run either."""
    if row['result'] == 'refused' and 'cannot be tried' not in row['reason']:
        return row
    try:
        MODELS.build(copy.deepcopy(teacher))
        plain = MODELS.build(copy.deepcopy(student))
        plain.init_weights()
        fails = families.train(plain, is_detector(plain))
    except Exception as error:
        fails = in_one_line(error)
    if fails:
        row |= dict(result='cannot run here', reason=f'nor the plain networks: {fails}')
    return row


def is_detector(model: nn.Module) -> bool:
    return any(kind.__module__.startswith('mmdet') for kind in type(model).__mro__)


def _told(links: dict) -> str:
    """The links in a cell of the table."""
    return '; '.join(
        ' '.join(
            [
                _taps(link['student']),
                '<-',
                _taps(link['teacher']),
                *(s['type'].removeprefix('kd_mm.') for s in link.get('stages', ())),
                link['criterion']['type'].removeprefix('kd_mm.'),
            ]
        )
        for link in links.values()
    )


def _taps(taps: str | list[str]) -> str:
    return taps if isinstance(taps, str) else ', '.join(taps)


def train(model: nn.Module) -> tuple[list[float], str]:
    """The links' loss in every step; what went wrong with the likeliest batch."""
    model.train()
    first = ''
    for batch in batches(model, is_detector(model)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        logs: list[dict] = []
        try:
            data = model.data_preprocessor(batch, True)
            for _ in range(AFTER + 1):
                torch.manual_seed(0)
                np.random.seed(0)
                logs.append(step(model, copy.deepcopy(data), optimizer))
        except Exception as error:
            first = first or in_one_line(error)
            continue
        return [float(f'{total(log):.6g}') for log in logs], ''
    return [], first


def total(log: dict) -> float:
    """The loss of all links in one step."""
    return sum(float(v.detach()) for k, v in log.items() if k.startswith('loss_kd_'))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('words', nargs='*', help='only pairs with all of these in them')
    parser.add_argument('--only', choices=('within', 'across'))
    parser.add_argument('--again', action='store_true', help='also those with a row')
    parser.add_argument('--failed', action='store_true', help='those that do not train')
    parser.add_argument('--list', action='store_true', help='show the pairs only')
    parser.add_argument('--verbose', action='store_true', help='let the models talk')
    args = parser.parse_args()
    chosen = [
        row
        for row in pairs()
        if args.only in (None, row['kind'])
        and all(word in row['config'] for word in args.words)
    ]
    if args.list:
        print('\n'.join(f'{row["kind"]:7} {row["config"]}' for row in chosen))
        return 0
    done = json_rows()
    register_all_modules(init_default_scope=False)
    mmpretrain.utils.register_all_modules(init_default_scope=False)
    for row in chosen:
        result = done.get(row['config'])
        again = args.again or args.failed and result != 'trains'
        if result and not again:
            continue
        work = functools.partial(examine, row)
        row = in_own_process(work, row, verbose=args.verbose)
        row |= dict(outcome=f'{row["kind"]}: {row["result"]}')
        store(RESULT, row['config'], [row])
        print(f'{row["result"]:16} {row["config"]}\n   {row["reason"]}', flush=True)
    refresh()
    return 0


def json_rows() -> dict[str, str]:
    """Results by pair, as far as there are."""
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    return {row['config']: row['result'] for row in rows}


if __name__ == '__main__':
    sys.exit(main())
