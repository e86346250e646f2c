#!/usr/bin/env python
"""Report how differently two networks use their channels, and what KCD makes of it.

    python tools/analyse_channels.py configs/kd/retinanet_r101_r50_pkd.py \
        --student work_dirs/a/epoch_12.pth --images 500 --out report

Any distilled config will do: what its links tap is compared. Prints a table per link,
and writes channels.json and figures.
"""

import os.path as osp
import time
from pathlib import Path

from mmengine.registry import DATASETS
from rich.console import Console

from kd_mm.errors import ConfigError
from kd_mm.stages.kcd.moments import KINDS
from kd_mm.teachers import with_files
from kd_mm.unaugmented import plain_loader
from kd_mm.utils import cli
from kd_mm.utils.classes import names_of
from kd_mm.utils.distilled import build_distilled
from kd_mm.utils.kinds import default_scope
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Compare the channels of student and teacher')
    parser.add_argument('config', help='config of a distilled model')
    parser.add_argument(
        '--student', metavar='CKPT', help="checkpoint; by default the config's start"
    )
    parser.add_argument(
        '--teacher', metavar='CKPT', help="checkpoint; by default the config's"
    )
    parser.add_argument('--images', type=int, default=1000, help='default: %(default)s')
    parser.add_argument(
        '--similarity',
        choices=KINDS,
        default='gap',
        help='what the transforms are fitted to; default: %(default)s',
    )
    parser.add_argument('--top-k', type=int, default=10, help='default: %(default)s')
    parser.add_argument('--out', help='folder; default: work_dirs/channels/<config>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=cli.CfgOptions, metavar='KEY=VALUE'
    )
    cli.add_trust(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def main():
    args = parse_args()
    with Session(trust=args.trust) as session:
        cfg = cli.read_config(args)
        cli.need(cfg, 'train_dataloader', 'measure')
        if args.images < 2 or args.top_k < 1:
            raise ConfigError('--images must be >= 2 and --top-k >= 1')
        name = osp.splitext(osp.basename(args.config))[0]
        out = session.folder(args.out or Path('work_dirs', 'channels', name))
        with default_scope(cfg):
            report(cfg, args, out)


def report(cfg, args, out):
    """Measure, print, write."""
    from kd_mm.analysis.figures import draw  # sets matplotlib's backend
    from kd_mm.analysis.report import measure, print_tables, write_json

    start = time.time()
    if args.teacher:
        teachers = with_files(cfg.model.teacher)
        if len(teachers) != 1:
            raise ConfigError(
                f'--teacher {args.teacher}: the config reads {len(teachers)} teachers; '
                'set --cfg-options model.teacher.NAME.checkpoint=...'
            )
        next(iter(teachers.values()))['checkpoint'] = args.teacher
    model = build_distilled(cfg, args.config, student=args.student, trust=args.trust)
    # one teacher's has no name; the student's average has none
    named = with_files(cfg.model.teacher)
    files = {name: teacher.get('checkpoint') for name, teacher in named.items()}
    files = files.get('', files) if files else None
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    loader = plain_loader(cfg, dataset, images=args.images, annotations=True)
    reports = measure(model, loader, similarity=args.similarity, k=args.top_k)
    print_tables(reports, args.top_k, Console())
    write_json(
        reports,
        out / 'channels.json',
        config=args.config,
        student=args.student,
        teacher=files,
        images=len(loader.dataset),
        similarity=args.similarity,
        k=args.top_k,
    )
    figures = draw(reports, out, k=args.top_k, class_names=names_of(dataset))
    print(
        f'{len(loader.dataset)} images, {time.time() - start:.0f} s; channels.json and '
        f'{len(figures)} figures are in {out}'
    )


if __name__ == '__main__':
    main()
