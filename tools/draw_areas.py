#!/usr/bin/env python
"""Draw what SoKD's DAM sees in images, and how DAFA's policy has learned.

    python tools/draw_areas.py configs/kd/retinanet_r101_r50_sokd.py \
        work_dirs/a/epoch_24.pth data/coco/val2017/000000000139.jpg

For every image: the areas of student and teacher, both heatmaps, and the weight of
every position. Goes to the config's visualisation backends, in --out.
"""

import os.path as osp
from collections import Counter

import mmcv
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import VISBACKENDS
from mmengine.runner import load_checkpoint
from mmengine.visualization import Visualizer

from kd_mm.errors import ConfigError
from kd_mm.utils import cli
from kd_mm.utils.distilled import build_distilled
from kd_mm.utils.export import DISTILLER
from kd_mm.utils.files import check_checkpoint
from kd_mm.utils.kinds import default_scope, type_name
from kd_mm.utils.loading import check_fits
from kd_mm.utils.session import Session
from kd_mm.utils.states import compare, some, state_of


def parse_args():
    parser = cli.Parser(description="Draw DAM's areas and DAFA's policy")
    parser.add_argument('config', help='config of a distilled model')
    parser.add_argument('checkpoint', help='checkpoint of a run, with its distiller')
    parser.add_argument('images', nargs='+', help='image files')
    parser.add_argument('--out', help='folder; default: work_dirs/areas/<config>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=cli.CfgOptions, metavar='KEY=VALUE'
    )
    cli.add_trust(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def load(model, path, *, trust):
    """Load a checkpoint that covers the distiller, and return it."""
    check_fits(model, path, trust=trust)
    checkpoint = load_checkpoint(model, path, map_location='cpu')
    own = {n: v for n, v in model.state_dict().items() if n.startswith(DISTILLER)}
    missing, _, shapes = compare(own, state_of(checkpoint, where=path))
    if missing or shapes:
        raise ConfigError(
            f'{path} lacks {len(missing)} tensors of the distiller and has '
            f'{len(shapes)} of another shape ({some([*missing, *shapes.values()])}): '
            'it was trained with other links, or exported'
        )
    return checkpoint


def main():
    args = parse_args()
    with Session(trust=args.trust):
        cfg = cli.read_config(args)
        check_checkpoint(args.checkpoint, key='checkpoint', trust=args.trust)
        for path in args.images:
            if not osp.isfile(path):
                raise ConfigError(f'there is no image {path}')
            if mmcv.imread(path) is None:
                raise ConfigError(f'{path} is no image')
        name = osp.splitext(osp.basename(args.config))[0]
        out = args.out or osp.join('work_dirs', 'areas', name)
        with default_scope(cfg):
            draw(cfg, args, out)


def read(path, index, preprocessor, in_memory):
    """What the pipeline starts from; pixels where its data set holds them (CIFAR)."""
    item = dict(img_path=path, img_id=index)
    if in_memory:
        # such data sets have their networks' own order of colours
        order = 'bgr' if getattr(preprocessor, 'to_rgb', False) else 'rgb'
        item['img'] = mmcv.imread(path, channel_order=order)
        item['ori_shape'] = item['img_shape'] = item['img'].shape[:2]
    return item


def draw(cfg, args, out):
    """Look at every image, and write the pictures."""
    from kd_mm.analysis.areas import dam_stages, view_areas  # sets matplotlib's backend
    from kd_mm.analysis.sokd_figures import areas_figure, policy_figure
    from kd_mm.hooks.draw_hook import policy_courses
    from kd_mm.unaugmented import plain_pipeline

    model = build_distilled(cfg, args.config)
    checkpoint = load(model, args.checkpoint, trust=args.trust)
    dam_stages(model)
    steps = plain_pipeline(cfg, annotations=False)
    pipeline = Compose(steps)
    in_memory = not any('LoadImage' in type_name(step) for step in steps)
    loader = [
        pseudo_collate([pipeline(read(path, i, model.data_preprocessor, in_memory))])
        for i, path in enumerate(args.images)
    ]
    backends = cfg.get('vis_backends') or [dict(type='LocalVisBackend')]
    visualizer = Visualizer(
        vis_backends=[VISBACKENDS.build(dict(b, save_dir=out)) for b in backends]
    )
    step = checkpoint.get('meta', {}).get('epoch', 0)
    views = view_areas(model, loader)
    drawn = Counter()
    for view in views:
        name = f'areas_{view.link}_{osp.splitext(view.name)[0]}'
        drawn[name] += 1  # images of two folders may have one name
        number = f'_{drawn[name]}' if drawn[name] > 1 else ''
        visualizer.add_image(f'{name}{number}', areas_figure(view), step=step)
    hub = checkpoint.get('message_hub', {})
    courses = policy_courses(hub.get('log_scalars', {}))
    for link, course in courses.items():
        visualizer.add_image(f'policy_{link}', policy_figure(*course), step=step)
    visualizer.close()
    print(f'{len(views)} pictures of areas and {len(courses)} of policies are in {out}')


if __name__ == '__main__':
    main()
