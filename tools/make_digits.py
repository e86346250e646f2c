"""Make the digits data set: python tools/make_digits.py data/digits"""

import sys

from kd_mm.datasets import make_digits
from kd_mm.errors import ConfigError
from kd_mm.utils import cli


def main() -> int:
    parser = cli.Parser(description=__doc__)
    parser.add_argument('out', help='folder to make')
    parser.add_argument('--train', type=int, default=1600, help='training images')
    parser.add_argument('--val', type=int, default=200, help='validation images')
    parser.add_argument('--size', type=int, default=128, help='side in pixels')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        written = make_digits(
            args.out, train=args.train, val=args.val, size=args.size, seed=args.seed
        )
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:  # a read-only place, a full disk
        print(f'error: {args.out}: {error.strerror or error}', file=sys.stderr)
        return 2
    print(f'{args.out}: {"written" if written else "is there already"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
