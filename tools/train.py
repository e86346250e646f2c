#!/usr/bin/env python
"""Train a detector or a classifier, distilled or plain.

    python tools/train.py configs/kd/retinanet_r101_r50_cwd.py
    python tools/train.py CONFIG --work-dir work_dirs/a --amp --resume
    python tools/train.py CONFIG --cfg-options model.links.fpn.criterion.weight=4

The arguments are those of MMDetection's own tool. A mistake in them or in the config
is one line on stderr and exit code 2; Ctrl-C names the checkpoint to resume from.
"""

from kd_mm.utils import cli
from kd_mm.utils.files import check_checkpoint
from kd_mm.utils.session import Session
from kd_mm.utils.work_dir import check_resume, find_resume


def parse_args():
    parser = cli.Parser(description='Train a model, distilled or plain')
    parser.add_argument('config', help='config file, or package::path/to/config.py')
    cli.add_common_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on CPU)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='continue from CKPT, or from the latest checkpoint in the work dir',
    )
    cli.add_trust(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with Session(trust=args.trust) as session:
        cfg = cli.read_config(args)
        for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
            cli.need(cfg, key, 'train')
        if args.amp:
            cli.use_amp(cfg)
        if args.auto_scale_lr:
            cli.use_auto_scale_lr(cfg)
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if not cfg.get('strategy'):  # sharded checkpoints are folders: MMEngine's
            start(cfg, trust=args.trust)
        key = '--resume: checkpoint' if cfg.get('resume') else 'load_from'
        session.keys[cfg.get('load_from')] = key
        session.build(cfg, trains=True).train()


def start(cfg, *, trust):
    """Find the checkpoint that training starts from, and refuse one that is broken."""
    if not cfg.get('resume'):
        if cfg.get('load_from'):
            check_checkpoint(cfg.load_from, key='load_from', trust=trust)
    elif cfg.get('load_from'):
        check_resume(cfg.load_from, trust=trust)
    else:
        cfg.load_from = find_resume(cfg.work_dir, trust=trust)


if __name__ == '__main__':
    main()
