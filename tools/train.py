#!/usr/bin/env python
"""Train a detector or a classifier, distilled or plain.

    python tools/train.py CONFIG --teacher CONFIG --teacher-checkpoint CHECKPOINT
    python tools/train.py configs/kd/retinanet_r101_r50_cwd.py
    python tools/train.py CONFIG --work-dir work_dirs/a --amp --resume
    python tools/train.py CONFIG --cfg-options model.links.fpn.criterion.weight=4

The arguments are those of MMDetection's own tool. A mistake in them or in the config
is one line on stderr and exit code 2; Ctrl-C names the checkpoint to resume from.
"""

from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from kd_mm.utils import cli, one_command
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
        '--epochs',
        type=int,
        metavar='N',
        help='train for N epochs: schedulers, mode switches and the like go along',
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
    one_command.add_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with Session(trust=args.trust) as session:
        cfg = cli.read_config(args, lambda cfg: one_command.changed(cfg, args))
        for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
            cli.need(cfg, key, 'train')
        if args.amp:
            cli.use_amp(cfg)
        if args.auto_scale_lr:
            cli.use_auto_scale_lr(cfg)
        begin = cfg.get('load_from')
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        session.keys[begin] = (
            one_command.START if args.student_checkpoint else 'load_from'
        )
        if not cfg.get('strategy'):
            start(cfg, begin, session.keys[begin], trust=args.trust)
        elif args.resume == 'auto' and not find_latest_checkpoint(cfg.work_dir):
            cfg.resume, cfg.load_from = False, begin  # sharded ones are MMEngine's
        if cfg.get('resume'):
            session.keys[cfg.get('load_from')] = '--resume: checkpoint'
        runner = session.build(cfg, trains=True)
        if args.resume:
            runner.register_hook(one_command.FromItsBegin(begin))
        one_command.tell(cfg, args, runner.model)
        if cfg.get('resume') and cfg.get('load_from') and not cfg.get('strategy'):
            one_command.tell_resumed(cfg, trust=args.trust)
        runner.train()
        one_command.tell_result(cfg, runner)


def start(cfg, begin, key, *, trust):
    """Find the checkpoint that training starts from, and refuse one that is broken.

    Args:
        cfg (Config): The config.
        begin (str, optional): Where training starts if there is nothing to resume.
        key (str): Where that was given, for messages.
        trust (bool): Whether checkpoints may run code.
    """
    if cfg.get('resume') and cfg.get('load_from'):
        check_resume(cfg.load_from, trust=trust)
        return
    found = find_resume(cfg.work_dir, trust=trust) if cfg.get('resume') else None
    if cfg.get('resume') and not found:
        where = begin or 'the beginning'
        print_log(f'--resume: nothing in {cfg.work_dir}; training starts from {where}')
    cfg.resume, cfg.load_from = bool(found), found or begin
    if begin and not found:
        check_checkpoint(begin, key=key, trust=trust)


if __name__ == '__main__':
    main()
