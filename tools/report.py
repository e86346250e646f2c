#!/usr/bin/env python
"""Report on finished runs: one HTML page, with a verdict in words.

    python tools/report.py work_dirs/alone work_dirs/distilled --out report.html
    python tools/report.py alone=w/a0 alone=w/a1 SoKD=w/d0 SoKD=w/d1 --teacher w/teacher

A run is its work dir, or NAME=FOLDER; those of one name are seeds of one thing, and are
compared with the student alone seed by seed. That is the first name of runs that are
not distilled. The page needs no network and no other file.
"""

import sys
from pathlib import Path

from kd_mm.analysis.reports import page, read_metrics, read_run
from kd_mm.analysis.reports.plots import KINDS
from kd_mm.errors import ConfigError
from kd_mm.utils import cli
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Report on finished runs')
    parser.add_argument('runs', nargs='+', metavar='[NAME=]FOLDER')
    parser.add_argument('--out', default='report.html', help='default: %(default)s')
    parser.add_argument('--title', default='Distillation')
    parser.add_argument('--metric', help='by default the first of the validation')
    parser.add_argument(
        '--teacher',
        metavar='FOLDER',
        help='where tools/test.py evaluated it; by default what the logs say',
    )
    parser.add_argument('--pictures', nargs='*', default=[], metavar='FILE')
    return parser.parse_args()


def main():
    args = parse_args()
    with Session():
        more = [Path(path) for path in args.pictures]
        if missing := [path for path in more if not path.is_file()]:
            raise ConfigError(f'--pictures: there is no {missing[0]}')
        if foreign := [p for p in more if p.suffix.lower().lstrip('.') not in KINDS]:
            raise ConfigError(
                f'--pictures: {foreign[0]} cannot be shown; give one of: '
                f'{", ".join(KINDS)}'
            )
        html = page(
            [read_run(text) for text in args.runs],
            title=args.title,
            metric=args.metric,
            teacher=read_metrics(args.teacher) if args.teacher else None,
            more=more,
        )
        Path(args.out).write_text(html)
        print(f'{args.out}: open it in a browser')


if __name__ == '__main__':
    sys.exit(main())
