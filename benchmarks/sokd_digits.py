#!/usr/bin/env python
"""SoKD on the digits: what do DAFA and DAM bring to FitNet?

python benchmarks/sokd_digits.py           # 25 runs, about an hour on one core
"""

from sweep import sweep

DAFA = dict(type='kd_mm.DAFA', search_epochs=2, lr=0.03)
ADAPTER = dict(type='kd_mm.ConvAdapter')
DAM = dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)
CRITERION = dict(type='kd_mm.MSELoss', weight=2.0)
METHODS = {
    'alone': None,
    'FitNet': dict(stages=[ADAPTER], criterion=CRITERION),
    'FitNet + DAFA': dict(stages=[DAFA, ADAPTER], criterion=CRITERION),
    'FitNet + DAM': dict(stages=[ADAPTER, DAM], criterion=CRITERION),
    'FitNet + SoKD': dict(stages=[DAFA, ADAPTER, DAM], criterion=CRITERION),
}

if __name__ == '__main__':
    sweep(about=__doc__.splitlines()[0], methods=METHODS, base='FitNet')
