#!/usr/bin/env python
"""Does the doctor find what is wrong, and nothing in what is not?

    python benchmarks/faults.py                 # all rows that are not there yet
    python benchmarks/faults.py --only 'weight' # rows whose name has that in it

Thirty faults (benchmarks/faulty.py), each in a healthy config, and twenty healthy ones.
A fault counts as found by the doctor if a check that is about it says look or wrong; as
found in training if a warning about it comes within a few epochs. A false alarm is any
check that is not fine. Rows go to benchmarks/results/faults.json, the tables to
docs/troubleshooting.md.
"""

import argparse
import copy
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import torch
from combine import combine, hosts
from digits_runs import ROOT
from faulty import FAULTS, Fault, boxes, cifar, digits
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from suites_cls import shortened
from tables import refresh

import kd_mm.distill  # noqa: F401  attaches the hooks
from kd_mm.analysis.doctor import examine

RESULT = ROOT / 'benchmarks/results/faults.json'
IMAGES, STEPS, EPOCHS = 96, 12, 11


def healthy() -> dict:
    """Twenty configs that are known to train well, by name."""
    small = {host: shortened(links, epochs=30) for host, links in hosts().items()}
    found = {
        f'digits, {host}': lambda links=links: digits(links)
        for host, links in small.items()
    }
    for method, parts in {'SoKD': ('DAFA', 'DAM'), 'KCD': ('KCD',)}.items():
        links = combine(small['PKD'], *parts)
        found[f'digits, PKD + {method}'] = lambda links=links: digits(links)
    found['CIFAR-10, KD'] = cifar
    found['CIFAR-10, PKD'] = lambda: cifar('pkd')
    for name in ('fitnet', 'pkd', 'sokd_stable'):
        found[f'boxes, {name}'] = lambda name=name: boxes(name)
    assert len(found) == 20, len(found)
    return found


def diagnosed(cfg: Config) -> list[dict]:
    """What the doctor says that is not fine."""
    found = examine(cfg, images=IMAGES, steps=STEPS)
    return [
        dict(check=f.check, verdict=f.verdict, text=f.text)
        for f in found
        if f.verdict != 'fine'
    ]


class _Heard(logging.Handler):
    """Keeps warnings of this package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if 'hooks' in record.pathname and record.levelno >= logging.WARNING:
            self.texts.append(record.getMessage())


def warned(cfg: Config, folder: Path) -> list[str]:
    """What training says by itself within some epochs."""
    cfg = copy.deepcopy(cfg)
    cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=1)
    cfg.param_scheduler = []
    cfg.log_level, cfg.work_dir = 'WARNING', str(folder)
    heard = _Heard()
    try:
        runner = Runner.from_cfg(cfg)
        for handler in runner.logger.handlers:
            handler.setLevel(logging.CRITICAL)
        runner.logger.addHandler(heard)
        runner.train()
    except Exception as error:  # noqa: BLE001  (a run that fails has said so)
        heard.texts.append(f'{type(error).__name__}: {error}'[:300])
    return heard.texts


def examined(fault: Fault) -> dict:
    """One row: where a fault was seen."""
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = fault.base()
        fault.inject(cfg, folder)
        said = diagnosed(cfg)
        about = [f for f in said if any(part in f['check'] for part in fault.checks)]
        texts = warned(cfg, folder / 'run') if fault.says else []
    told = [text for text in texts if fault.says in text]
    return dict(
        kind='fault',
        fault=fault.name,
        thread=fault.thread,
        doctor=_worst(about),
        check=', '.join(dict.fromkeys(f['check'] for f in about)) or '-',
        training='yes' if told else 'no' if fault.says else '-',
        found='yes' if about or told else 'no',
        text=about[0]['text'] if about else ''.join(told[:1]),
        said=said,
        warnings=texts,
        seconds=round(time.time() - start),
    )


def _worst(found: list[dict]) -> str:
    verdicts = {f['verdict'] for f in found}
    return next((v for v in ('wrong', 'look') if v in verdicts), '-')


def proved(name: str, make) -> dict:
    """One row: what is said of a healthy run."""
    start = time.time()
    cfg = make()
    said = diagnosed(cfg)
    texts = []
    if name.startswith('digits,'):
        with tempfile.TemporaryDirectory() as folder:
            texts = warned(cfg, Path(folder))
    return dict(
        kind='healthy',
        run=name,
        doctor=_worst(said),
        check=', '.join(f['check'] for f in said) or '-',
        alarm='yes' if said or texts else 'no',
        said=said,
        warnings=texts,
        seconds=round(time.time() - start),
    )


def rows() -> dict[str, dict]:
    """What is known already, by name."""
    found = json.loads(RESULT.read_text())['rows'] if RESULT.is_file() else []
    return {row.get('fault') or row['run']: row for row in found}


def save(known: dict[str, dict], order: list[str]) -> None:
    """Keep all rows, and what they come to."""
    every = [known[name] for name in order if name in known]
    faults = [row for row in every if row['kind'] == 'fault']
    well = [row for row in every if row['kind'] == 'healthy']
    summary = [
        dict(
            faults=len(faults),
            by_the_doctor=sum(row['doctor'] != '-' for row in faults),
            in_training_only=sum(
                row['doctor'] == '-' and row['training'] == 'yes' for row in faults
            ),
            not_found=sum(row['found'] == 'no' for row in faults),
            healthy=len(well),
            false_alarms=sum(row['alarm'] == 'yes' for row in well),
        )
    ]
    content = dict(summary=summary, faults=faults, healthy=well, rows=every)
    text = json.dumps(content, indent=1).replace(f'{ROOT}/', '')
    RESULT.write_text(f'{text}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default='', help='part of a name')
    parser.add_argument('--again', action='store_true', help='rows that are there, too')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    jobs = {fault.name: lambda fault=fault: examined(fault) for fault in FAULTS}
    for name, make in healthy().items():
        jobs[name] = lambda name=name, make=make: proved(name, make)
    known = rows()
    for name, job in jobs.items():
        if args.only not in name or (name in known and not args.again):
            continue
        MMLogger._instance_dict.clear()
        known[name] = row = job()
        print(f'{row["seconds"]:4} s  {row["doctor"]:6} {name}: {row["check"]}')
        for text in row['warnings']:
            print(f'        {text}')
        save(known, list(jobs))
    refresh()


if __name__ == '__main__':
    main()
