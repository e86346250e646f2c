#!/usr/bin/env python
"""Does `share` make up for a wrong weight? Every host, started at five weights.

    python benchmarks/share.py                      # lists the suites
    python benchmarks/share.py digits-cls           # classification, seconds a run
    python benchmarks/share.py digits --seeds 0 1 2 # detection, a minute a run
    python benchmarks/share.py cifar10 --only FitNet PKD
    python benchmarks/share.py noise                # a teacher that knows nothing

Every host runs at its weight times 0.01, 0.1, 1, 10 and 100, as it is and with
`share=0.8`, with every seed. As in gain.py a row that is in
benchmarks/results/share_SUITE.json is not run again, and several processes may share a
suite if they are given other hosts or seeds. The tables of docs/results/ are brought
up to date at the end.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from combine import METHODS, combine, hosts, snippet
from gain import RESULTS, add, one_run, read
from suites import DETECTION, DIGITS, Suite
from suites_cls import CIFAR10, DIGITS_CLS, cifar10_methods, shortened
from tables import refresh, starts, table

STARTS = (0.01, 0.1, 1.0, 10.0, 100.0)
TARGET = 0.8  # --target: another one, into the same table


def started(said: dict, start: float, share: float | dict | None) -> dict:
    """A method with every weight of its links times ``start``, and with a share."""
    said = copy.deepcopy(said if 'links' in said else dict(links=said))
    for link in said['links'].values():
        criterion = link['criterion']
        criterion['weight'] = criterion.get('weight', 1.0) * start
        for stage in link.get('stages', ()):
            if stage['type'] == 'kd_mm.DAM':
                own = stage.get('weight', 1.0)  # one, or one a term
                several = isinstance(own, tuple)
                stage['weight'] = (
                    tuple(start * weight for weight in own) if several else start * own
                )
        if share is not None:
            link['share'] = share
    return said


def digits_cls_hosts() -> dict[str, dict]:
    own = {host: shortened(links, epochs=30) for host, links in hosts().items()}
    found = {host: own[host] for host in ('FitNet', 'PKD', 'CWD', 'KD', 'OFD')}
    found['DPK'] = combine(own['FitNet'], 'DPK')
    found['FitNet + SoKD'] = combine(own['FitNet'], *METHODS['SoKD'])
    found['OFD + DPK'] = combine(own['OFD'], 'DPK')
    return found


def cifar10_hosts(epochs: int) -> dict[str, dict]:
    """As published, at the shipped weights; DPK on the last map."""
    own = cifar10_methods(epochs)
    found = {host: own[host] for host in ('FitNet', 'PKD', 'CWD', 'KD')}
    found['OFD'] = snippet('ofd', 'ofd.resnet56_resnet20')
    dpk = found['DPK'] = copy.deepcopy(own['DPK on the last stage + KD'])
    del dpk['links']['logits']
    found['FitNet + SoKD'] = own['FitNet + SoKD']
    return found


DETECTORS = {
    'FitNet': 'FitNet', 'PKD': 'PKD', 'CWD': 'CWD', 'KD': 'KD',
    'DPK': 'DPK dynamic', 'FitNet + SoKD': 'FitNet + SoKD',
}  # fmt: skip
HOSTS = {
    'digits-cls': (DIGITS_CLS, digits_cls_hosts(), {}),
    'digits': (
        DETECTION,
        {name: DIGITS[key] for name, key in DETECTORS.items()},
        dict(images=300, epochs=6),
    ),
    'cifar10': (CIFAR10, cifar10_hosts(3), dict(images=2000, epochs=3)),
}


def suite_of(name: str, target: float) -> tuple[Suite, list[dict]]:
    """A suite of all starts, and what each of its methods is."""
    if name == 'noise':
        return noise()
    suite, own, setting = HOSTS[name]
    rows = [dict(host='alone', start=0.0, share=0.0)]
    methods: dict[str, dict | None] = {title(rows[0]): None}
    for share in (None, target):
        for host, said in own.items():
            for start in sorted(STARTS, key=lambda s: abs(s - 1)):
                row = dict(host=host, start=start, share=share or 0.0)
                methods[title(row)] = started(said, start, share)
                rows.append(row)
    return replace(
        suite,
        name=f'share-{name}',
        methods=methods,
        base='alone',
        setting=suite.setting | setting,
    ), rows


def noise() -> tuple[Suite, list[dict]]:
    """A teacher that knows nothing: how much harm does it do?"""
    rows = [dict(host='alone', how='', method='alone')]
    methods: dict[str, dict | None] = {title(rows[0]): None}
    own = digits_cls_hosts()
    for host in ('FitNet', 'KD'):
        for how, share in NOISE.items():
            row = dict(host=host, how=how, method=f'{host}, {how}')
            methods[title(row)] = started(own[host], 1.0, share)
            rows.append(row)
    return replace(
        DIGITS_CLS,
        name='share-noise',
        methods=methods,
        checkpoint=lambda: None,
        guide=dict(allow_random=True),
    ), rows


NOISE: dict[str, dict | None] = {
    'weight': None,
    'held': dict(target=TARGET, falls_to=1.0),
    'falls to half': dict(target=TARGET, falls_to=0.5),
    'falls to 0': dict(target=TARGET, falls_to=0.0),
    'ends after a third': dict(target=TARGET, interval=10, stop_after=10),
    'held, guarded': dict(target=TARGET, falls_to=1.0, tolerance=0.1),
    'falls to half, guarded': dict(target=TARGET, falls_to=0.5, tolerance=0.1),
}


def title(row: dict) -> str:
    """Name of the run."""
    return ' '.join(f'{value:g}' if isinstance(value, float) else value
                    for value in row.values())  # fmt: skip


def pending(
    path: Path, rows: list[dict], seeds: list[int], about: dict, only: list[str]
) -> Iterator[dict]:
    """What is not in the file yet, looked up anew each time."""
    for seed in seeds:
        for row in rows:
            own = row | dict(seed=seed) | about
            if only and row['host'] not in (*only, 'alone'):
                continue
            if not any(own.items() <= found.items() for found in read(path)):
                yield own


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('suite', nargs='?', choices=[*HOSTS, 'noise'])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', default=[], metavar='HOST')
    parser.add_argument('--starts', type=float, nargs='+', default=[])
    parser.add_argument('--target', type=float, default=TARGET)
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.suite is None:
        for name, (suite, own, _) in HOSTS.items():
            print(f'{name}: {suite.about}; {", ".join(own)}')
        return
    torch.set_num_threads(args.threads)
    suite, rows = suite_of(args.suite, args.target)
    if args.starts:
        rows = [row for row in rows if row.get('start') in (0.0, *args.starts)]
    path = RESULTS / f'share_{args.suite.replace("-", "_")}.json'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    for own in pending(path, rows, args.seeds, suite.setting, args.only):
        method = title({key: own[key] for key in rows[0]})
        own |= one_run(suite, method, own['seed'], suite.setting, device)
        add(path, own)
        print(json.dumps(own), flush=True)
    refresh()
    if args.suite != 'noise':
        print(table(*starts(read(path), metric=next(iter(suite.metrics)))))


if __name__ == '__main__':
    main()
