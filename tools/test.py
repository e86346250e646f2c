#!/usr/bin/env python
"""Evaluate a checkpoint of a detector or a classifier.

    python tools/test.py CONFIG CHECKPOINT
    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl --show-dir pictures

For a distilled config the plain student is evaluated: no teacher is needed, and both
checkpoints from training and exported ones fit.
"""

from mmengine.config import Config

from kd_mm.utils import cli
from kd_mm.utils.export import plain_student
from kd_mm.utils.files import check_checkpoint
from kd_mm.utils.loading import check_fits
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Evaluate a model')
    parser.add_argument('config', help='config file, or package::path/to/config.py')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    cli.add_common_arguments(parser)
    parser.add_argument('--out', metavar='PKL', help='write the predictions there')
    parser.add_argument(
        '--show-dir',
        help='draw the predictions into this folder (for detectors: '
        'below the time-stamped folder in the work dir)',
    )
    cli.add_trust(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with Session(trust=args.trust) as session:
        cli.check_output(args.out)
        check_checkpoint(args.checkpoint, key='checkpoint', trust=args.trust)
        # without a name, or MMEngine would write it over the run's own config
        cfg = Config(plain_student(cli.read_config(args)).to_dict())
        for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
            cli.need(cfg, key, 'test')
        cfg.load_from = args.checkpoint
        cfg.resume = False
        if args.show_dir:
            cli.draw_into(cfg, args.show_dir)
        runner = session.build(cfg)
        check_fits(runner.model, args.checkpoint, trust=args.trust)
        if args.out:
            cli.dump_predictions(runner, args.out)
        runner.test()


if __name__ == '__main__':
    main()
