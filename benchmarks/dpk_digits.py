#!/usr/bin/env python
"""DPK on the digits: is a dynamic share of the teacher better than a fixed one?

python benchmarks/dpk_digits.py            # 20 runs, about 45 minutes on one core
"""

from sweep import sweep

DPK = dict(type='kd_mm.DPK', patch=[2, 1, 1], encoder=(64, 2, 4), decoder=(64, 1, 4))
CRITERION = dict(type='kd_mm.MSELoss', weight=2.0)
METHODS = {
    'alone': None,
    'FitNet': dict(stages=[dict(type='kd_mm.ConvAdapter')], criterion=CRITERION),
    'DPK fixed 0.5': dict(stages=[dict(DPK, ratio=0.5)], criterion=CRITERION),
    'DPK dynamic': dict(stages=[DPK], criterion=CRITERION),
}

if __name__ == '__main__':
    sweep(about=__doc__.splitlines()[0], methods=METHODS, base='FitNet')
