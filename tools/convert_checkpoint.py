#!/usr/bin/env python
"""Rename the tensors of a public CIFAR checkpoint for MMPretrain.

    python tools/convert_checkpoint.py configs/kd_cls/cifar100/resnet32x4.py \
        resnet32x4_vanilla/ckpt_epoch_240.pth checkpoints/cifar100/resnet32x4.pth

Reads the releases of CRD and mdistiller (CIFAR-100) and option-A ResNets (CIFAR-10).
"""

from kd_mm.utils import cli
from kd_mm.utils.convert import convert_checkpoint
from kd_mm.utils.session import Session


def main():
    parser = cli.Parser(description='Rename the tensors of a public CIFAR checkpoint')
    parser.add_argument('config', help='config of the plain classifier')
    parser.add_argument('checkpoint', help='the public file')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    cli.add_trust(parser)
    args = parser.parse_args()
    with Session(trust=args.trust):
        count = convert_checkpoint(
            args.config,
            args.checkpoint,
            args.out,
            force=args.force,
            trust=args.trust,
        )
    print(f'{args.out}: {count / 1e6:.2f} M parameters; loads strictly')


if __name__ == '__main__':
    main()
