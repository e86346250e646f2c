#!/usr/bin/env python
"""Say whether distillation can work, before training, and what to mend.

    python tools/doctor.py configs/kd/digits/retinanet_r18w24_r18w16_fitnet_digits.py
    python tools/doctor.py CONFIG --student work_dirs/run/epoch_12.pth --images 500
    python tools/doctor.py STUDENT --teacher TEACHER --teacher-checkpoint CHECKPOINT
    python tools/doctor.py STUDENT ... --student-checkpoint CHECKPOINT

Prints a table of checks, each fine, look or wrong, with the remedy. Nothing is written
but --json; the exit code is 1 if something is wrong. See docs/troubleshooting.md.
"""

import json
import sys
import time
from pathlib import Path

from rich.console import Console

from kd_mm.analysis.doctor import as_json, examine, print_findings, worst
from kd_mm.errors import ConfigError
from kd_mm.utils import cli, one_command
from kd_mm.utils.distilled import check_distilled
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Is distillation working, and if not, why?')
    parser.add_argument(
        'config', help='config of a distilled model, or with --teacher a plain one'
    )
    parser.add_argument(
        '--student',
        metavar='CKPT',
        help='what a run has made of the student; by default its start',
    )
    parser.add_argument(
        '--images', type=int, default=200, help='of each set; default: %(default)s'
    )
    parser.add_argument(
        '--steps',
        type=int,
        default=20,
        help='of training; fewer than 8 compare no losses; default: %(default)s',
    )
    parser.add_argument('--json', metavar='FILE', help='write the findings there, too')
    parser.add_argument(
        '--cfg-options', nargs='+', action=cli.CfgOptions, metavar='KEY=VALUE'
    )
    cli.add_trust(parser)
    one_command.add_arguments(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def main():
    args = parse_args()
    start = time.time()
    with Session(trust=args.trust) as session:
        cfg = cli.read_config(args, lambda cfg: one_command.distilled(cfg, args))
        cli.need(cfg, 'train_dataloader', 'look at')
        check_distilled(cfg, args.config)
        if args.student_checkpoint:
            session.keys[args.student_checkpoint] = one_command.START
        if args.images < 8 or args.steps < 4:
            raise ConfigError('--images must be >= 8 and --steps >= 4')
        console = Console()
        findings = examine(
            cfg,
            student=args.student,
            images=args.images,
            steps=args.steps,
            tell=lambda text: console.print(f'doctor: {text}'),
        )
        print_findings(findings, console)
        console.print(f'{time.time() - start:.0f} s')
        if args.json:
            rows = as_json(findings)
            Path(args.json).write_text(json.dumps(rows, indent=1) + '\n')
    return int(worst(findings) == 'wrong')


if __name__ == '__main__':
    sys.exit(main())
