#!/usr/bin/env python
"""Which host goes with which method: builds every pair and writes the table.

    python benchmarks/combine.py

Hosts stand on two small ResNets, with the weights that the digits are measured with.
"""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from digits_runs import ROOT
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from tables import refresh

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine
from kd_mm.errors import ConfigError
from kd_mm.utils.kinds import is_type

CONFIGS = ROOT / 'configs/kd_cls'
RESULT = ROOT / 'benchmarks/results/combinations.json'
SEVEN = ['ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
STAGES = dict(
    KCD=dict(type='kd_mm.ChannelAlign', similarity='gap', fit_at=1),
    DAFA=dict(type='kd_mm.DAFA', search_epochs=4, operators=SEVEN),
    DPK=dict(type='kd_mm.DPK', fallback=0.9, encoder=(32, 2, 4), decoder=(32, 1, 4)),
    DAM=dict(type='kd_mm.DAM', normalise='area'),
)
TEACHERS = ('kd_mm.Resize', 'kd_mm.OFD')  # stages that change the teacher's side
VECTORS = ('head.fc', 'neck')
METHODS = {
    'KCD': ('KCD',),
    'DAFA': ('DAFA',),
    'DAM': ('DAM',),
    'SoKD': ('DAFA', 'DAM'),
    'DPK': ('DPK',),
}


def snippet(name: str, key: str = 'links') -> dict:
    """Links of a shipped snippet; ``key`` may be dotted."""
    found = Config.fromfile(CONFIGS / f'_base_/links/{name}.py')._cfg_dict.to_dict()
    for part in key.split('.'):
        found = found[part]
    return found


def one(tap: str, criterion: str, *stages: dict, **options) -> dict:
    """A link between the same place of both networks."""
    name = {'head.fc': 'logits', 'neck': 'vector'}.get(tap, 'map')
    link = dict(student=tap, teacher=tap, criterion=dict(type=criterion, **options))
    return {name: dict(link, stages=list(stages)) if stages else link}


def hosts() -> dict[str, dict]:
    """Every host on ResNet-20 to ResNet-8, of equal widths (8, 8, 16, 32).

    Weights are those of papers on other networks, or were chosen from 1, 0.1 and 0.01
    times these on seeds 100 and 101 and the validation images (DIST, AT).
    """
    resize = dict(type='kd_mm.Resize', side='teacher', mode='area')
    taps = [f'backbone.layer{i}' for i in (1, 2, 3)]
    preact = [f'{tap}.{{}}.relu2@input' for tap in taps]
    warmup = dict(schedule=dict(warmup=20))
    dkd = one('head.fc', 'kd_mm.DKDLoss', alpha=1.0, beta=8.0, tau=4.0)
    dkd['logits'] |= warmup
    return {
        'KD': one('head.fc', 'kd_mm.KDLoss', tau=4.0, weight=1.0),
        'DKD': dkd,
        'DIST': one('head.fc', 'kd_mm.DISTLoss', tau=4.0, weight=0.1),
        'FitNet': one(
            'backbone',
            'kd_mm.MSELoss',
            resize,
            dict(type='kd_mm.ConvAdapter'),
            weight=2.0,
        ),
        'AT': one('backbone', 'kd_mm.ATLoss', resize, weight=10.0),
        'SP': one('backbone', 'kd_mm.SPLoss', weight=3000.0),
        'PKD': one('backbone', 'kd_mm.PKDLoss', weight=6.0),
        'CWD': one('backbone', 'kd_mm.CWDLoss', tau=1.0, weight=10.0),
        'MGD': one(
            'backbone',
            'kd_mm.MSELoss',
            dict(type='kd_mm.MGD', ratio=0.15, mask='channel'),
            weight=2.0,
        ),
        # without the pooled vector: a link of maps, as the methods want them
        'ReviewKD': dict(
            review=dict(
                student=taps,
                teacher=taps,
                stages=[dict(type='kd_mm.ReviewKD', mid=64)],
                criterion=dict(type='kd_mm.HCLLoss', weight=0.6),
                **warmup,
            )
        ),
        'CRD': one('neck', 'kd_mm.CRDLoss', images=600, negatives=512, weight=0.08),
        'OFD': dict(
            preact=dict(
                student=[tap.format(0) for tap in preact],
                teacher=[tap.format(2) for tap in preact],
                stages=[dict(type='kd_mm.OFD')],
                criterion=dict(type='kd_mm.OFDLoss', weight=16.0),
            )
        ),
        'FitNet without adapter': one('backbone', 'kd_mm.MSELoss', resize, weight=2.0),
    }


def combine(links: dict, *parts: str) -> dict:
    """Put methods into links that hold a host.

    What changes the teacher's side comes first (also of the host), then what rebuilds
    the student's map, in the place of an adapter, then the host's own stages, then
    where to compare. On vectors DAFA has those operators that vectors have.
    """
    links = copy.deepcopy(links)
    for link in links.values():
        own = list(link.get('stages', ()))
        stages = copy.deepcopy(STAGES)
        if link['teacher'] in VECTORS:
            stages['DAFA']['operators'] = ['ChannelDrop', 'Noise']
        order = [
            *(stage for stage in own if is_type(stage, 'kd_mm.Resize')),
            stages['KCD'],
            *(stage for stage in own if is_type(stage, 'kd_mm.OFD')),
            stages['DAFA'],
            stages['DPK'],
            *(stage for stage in own if not is_type(stage, *TEACHERS)),
            stages['DAM'],
        ]
        asked = [stages[name] for name in parts]
        link['stages'] = [
            stage
            for stage in order
            if (stage in own or stage in asked)
            and not ('DPK' in parts and is_type(stage, 'kd_mm.ConvAdapter'))
        ]
    return links


def build(links: dict) -> torch.nn.Module:
    """A distilled ResNet-8 with a random ResNet-20 as its teacher."""
    student = Config.fromfile(CONFIGS / 'digits/resnet8.py')
    teacher = Config.fromfile(CONFIGS / 'digits/resnet20.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(
            dict(
                type='kd_mm.Distill',
                student=dict(
                    student.model, data_preprocessor=student.data_preprocessor
                ),
                teacher=dict(config=teacher.model.to_dict(), allow_random=True),
                links=links,
                trial_size=(16, 16),
            )
        )


class Warnings(logging.Handler):
    """Keeps what is logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def outcome(make: Callable[[], object]) -> tuple[str, str]:
    """'yes', 'no effect' (allowed, and warned of) or 'refused', and why."""
    handler = Warnings()
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        make()
    except ConfigError as error:
        return 'refused', str(error)
    finally:
        logger.removeHandler(handler)
    useless = [text for text in handler.said if 'cannot help' in text]
    return ('no effect', useless[0]) if useless else ('yes', '')


def main() -> None:
    rows = []
    for host, links in hosts().items():
        cells = {
            name: outcome(lambda h=links, p=parts: build(combine(h, *p)))[0]
            for name, parts in METHODS.items()
        }
        rows.append(dict(host=host) | cells)
        print(rows[-1], flush=True)
    save(RESULT, rows)


def save(path: Path, rows: list[dict]) -> None:
    """Write a table's rows, and the pages that show it."""
    lines = ',\n '.join(json.dumps(row) for row in rows)
    path.write_text(f'[{lines}]\n')
    refresh()


if __name__ == '__main__':
    MMLogger.get_instance('combine', log_level='WARNING')
    main()
