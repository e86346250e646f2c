#!/usr/bin/env python
"""SoKD on the digits: what do DAFA and DAM bring to FitNet?

    python benchmarks/sokd_digits.py           # 35 runs, more than an hour on one core

Each of the two twice: as published, and as the shipped configs have it, with DAFA's
operators that leave the channels alone, and heads of DAM that learn from the boxes.
"""

from sweep import sweep

SEVEN = ['ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
DAFA = dict(type='kd_mm.DAFA', search_epochs=4)
DAM = dict(type='kd_mm.DAM', normalise='area')
SUPERVISED = dict(DAM, supervision='gt', heatmaps=1)
ADAPTER = dict(type='kd_mm.ConvAdapter')
CRITERION = dict(type='kd_mm.MSELoss', weight=2.0)


def link(*stages: dict) -> dict:
    """FitNet with other stages around its adapter."""
    return dict(stages=list(stages), criterion=CRITERION)


METHODS = {
    'alone': None,
    'FitNet': link(ADAPTER),
    'FitNet + DAFA': link(dict(DAFA, operators=SEVEN), ADAPTER),
    'FitNet + DAM': link(ADAPTER, SUPERVISED),
    'FitNet + SoKD': link(dict(DAFA, operators=SEVEN), ADAPTER, SUPERVISED),
    'FitNet + DAFA all operators': link(DAFA, ADAPTER),
    'FitNet + DAM unsupervised': link(ADAPTER, DAM),
}

if __name__ == '__main__':
    sweep(about=__doc__.splitlines()[0], methods=METHODS, base='FitNet')
