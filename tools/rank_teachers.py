#!/usr/bin/env python
"""Rank teachers for a student without training it.

    python tools/rank_teachers.py configs/kd/retinanet_r101_r50_fitnet.py \
        mmdet::retinanet/retinanet_r101_fpn_2x_coco.py=r101.pth \
        mmdet::retinanet/retinanet_x101-64x4d_fpn_2x_coco.py=x101.pth \
        --student work_dirs/plain/epoch_24.pth

The first argument is a config of a distilled model: its student and its taps are used.
A teacher is CONFIG=CHECKPOINT. How well can the student's features explain each
teacher's? See "Ranking teachers" in docs/methods.md for what that says, and what not.
"""

import copy
import os.path as osp
from collections import Counter
from pathlib import Path

from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from rich.console import Console

from kd_mm.analysis.evaluate import evaluate
from kd_mm.analysis.teachers import (
    Rating,
    collect,
    draw,
    print_ranking,
    probe,
    write_json,
)
from kd_mm.errors import ConfigError
from kd_mm.unaugmented import plain_loader
from kd_mm.utils import cli
from kd_mm.utils.distilled import build_distilled, check_distilled
from kd_mm.utils.kinds import default_scope, is_type
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Rank teachers for a student')
    parser.add_argument('config', help='config of a distilled model')
    parser.add_argument('teachers', nargs='+', metavar='CONFIG=CHECKPOINT')
    parser.add_argument(
        '--student', metavar='CKPT', help="checkpoint; by default the config's start"
    )
    parser.add_argument('--images', type=int, default=500, help='default: %(default)s')
    parser.add_argument('--steps', type=int, default=300, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--evaluate', action='store_true', help='measure the teachers, too'
    )
    parser.add_argument('--out', help='folder; default: work_dirs/teachers/<config>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=cli.CfgOptions, metavar='KEY=VALUE'
    )
    cli.add_trust(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def split(teacher):
    """Config and checkpoint; folders may be called lr=0.01."""
    places = [i for i, letter in enumerate(teacher) if letter == '=']
    if not places or teacher.endswith('='):
        raise ConfigError(f'{teacher}: a teacher is CONFIG=CHECKPOINT')
    configs = (i for i in places if teacher[:i].endswith('.py'))
    place = next(configs, places[0])
    return teacher[:place], teacher[place + 1 :]


def names_of(teachers):
    """What to call each: its config; where others are called so, the checkpoint, too.

    Where even that repeats, its place in the list: a figure has no room for paths.
    """
    names = {}
    for teacher in teachers:
        config, checkpoint = map(_stem, split(teacher))
        names[teacher] = config, f'{config}={checkpoint}'
    used = Counter(name for forms in names.values() for name in forms)
    return [
        next((n for n in names[t] if used[n] == 1), f'{names[t][0]} ({place})')
        for place, t in enumerate(teachers, 1)
    ]


def _stem(path):
    return osp.splitext(osp.basename(path))[0]


def with_teacher(cfg, teacher, *, trust):
    """The config with one of the teachers, and links that only tap."""
    config, checkpoint = split(teacher)
    cfg = copy.deepcopy(cfg)
    cfg.model.teacher = dict(config=config, checkpoint=checkpoint, trust=trust)
    cfg.model.pop('inherit', None)
    if not isinstance(cfg.model.get('links'), dict):
        cfg.model.links = 'at'  # found for each teacher; the same criterion
        return cfg
    for link in cfg.model.links.values():  # compares any two widths, has no parameters
        link['stages'] = [
            stage
            for stage in link.get('stages') or []
            if is_type(stage, 'kd_mm.TokensToMap')
        ]
        link['criterion'] = dict(type='kd_mm.ATLoss')  # `update` would keep old keys
        link.pop('schedule', None)
    return cfg


def main():
    args = parse_args()
    with Session(trust=args.trust) as session:
        cfg = cli.read_config(args)
        cli.need(cfg, 'train_dataloader', 'measure')
        if args.evaluate:
            cli.need(cfg, 'val_dataloader', 'evaluate teachers')
        check_distilled(cfg, args.config)
        if args.images < 16 or args.steps < 1:
            raise ConfigError('--images must be >= 16 and --steps >= 1')
        name = _stem(args.config)
        out = session.folder(args.out or Path('work_dirs', 'teachers', name))
        with default_scope(cfg):
            rank(cfg, args, out)


def rank(cfg, args, out):
    """Probe one teacher after the other, print, write."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    loader = plain_loader(cfg, dataset, images=args.images, annotations=False)
    ratings = []
    for name, teacher in zip(names_of(args.teachers), args.teachers, strict=True):
        one = with_teacher(cfg, teacher, trust=args.trust)
        model = build_distilled(
            one, args.config, student=args.student, trust=args.trust
        )
        own = model.distiller.teacher.model
        batches = collect(model, loader)
        device = next(model.parameters()).device
        found = probe(batches, steps=args.steps, seed=args.seed, device=device)
        metric = None
        if args.evaluate:
            evaluator = Evaluator(cfg.val_evaluator)
            model.distiller.teacher.whole()  # its head comes from the CPU for that
            values = evaluate(
                own, Runner.build_dataloader(cfg.val_dataloader), evaluator
            )
            # none where it finds nothing
            numbers = (v for v in values.values() if isinstance(v, int | float))
            metric = next(map(float, numbers), None)
        parameters = sum(p.numel() for p in own.parameters()) / 1e6
        ratings.append(Rating(name, *found, parameters, metric))
    print_ranking(ratings, Console())
    about = dict(config=args.config, student=args.student, teachers=args.teachers)
    about.update(images=len(loader.dataset), steps=args.steps, seed=args.seed)
    write_json(ratings, out / 'teachers.json', **about)
    draw(ratings, out / 'teachers.png')
    print(f'teachers.json and teachers.png are in {out}')


if __name__ == '__main__':
    main()
