#!/usr/bin/env python
"""Write the student of a training checkpoint as a plain file.

    python tools/export_student.py work_dirs/a/epoch_24.pth student.pth

By default the weights that evaluation uses are taken: the average if the run kept one
(EMAHook saves it as the state dict itself), else the raw ones.
"""

from kd_mm.utils import cli
from kd_mm.utils.export import export_student
from kd_mm.utils.session import Session


def parse_args():
    parser = cli.Parser(description='Write the plain student of a checkpoint')
    parser.add_argument('checkpoint', help='checkpoint of a run')
    parser.add_argument('out', help='file to write')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--ema', action='store_true', help='insist on the averaged weights'
    )
    which.add_argument(
        '--raw', action='store_true', help='take the raw weights, not the average'
    )
    parser.add_argument(
        '--config',
        help="config of the run or of the student; by default the checkpoint's own",
    )
    parser.add_argument(
        '--half', action='store_true', help='store the weights in half precision'
    )
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    cli.add_trust(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    weights = 'ema' if args.ema else 'raw' if args.raw else 'saved'
    with Session(trust=args.trust):
        done = export_student(
            args.checkpoint,
            args.out,
            weights=weights,
            config=args.config,
            half=args.half,
            force=args.force,
            trust=args.trust,
        )
    print(
        f'{args.out}: {done["model"]}, {done["parameters"] / 1e6:.2f} M parameters, '
        f'{done["weights"]} weights; {done["size_before"] / 1e6:.2f} MB -> '
        f'{done["size_after"] / 1e6:.2f} MB, {done["dropped"]} tensors of the '
        f'distiller dropped; loads strictly into the plain student'
    )


if __name__ == '__main__':
    main()
