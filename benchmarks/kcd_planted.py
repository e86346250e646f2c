#!/usr/bin/env python
"""KCD where the answer is known: the teacher's channels are permuted on purpose.

    python benchmarks/kcd_planted.py            # about 4 minutes on one core

A small detector is trained on the digits. Its last weights are the teacher, its early
ones the student's start, so that channel i means the same in both. The teacher's FPN
outputs are then permuted, and the inputs of its head accordingly: it predicts what it
did before. Adapter-free MSE on the FPN is compared between the teacher as it was and
the permuted one with several transforms, fitted at the start.

Also written: how well each similarity tells the channels apart. Where the best
assignment correlates more than the true one, the statistics are ambiguous, and no
assignment could find the planted order from them.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from digits_runs import ROOT, STUDENT, digits_config, distil, train
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from rich.console import Console
from rich.table import Table
from tables import refresh

from kd_mm.stages.kcd.fit import observe
from kd_mm.stages.kcd.matching import control_map, fit_map, matched_correlation
from kd_mm.stages.kcd.moments import KINDS, Covariance, LevelStatistics
from kd_mm.unaugmented import feature_pairs, plain_loader, undisturbed
from kd_mm.utils.files import read_checkpoint

RESULT = ROOT / 'benchmarks/results/kcd_planted.json'
IMAGES, EPOCHS, START, DISTIL_EPOCHS = 400, 6, 2, 2

RUNS = (
    ('plain', dict(transform='identity')),
    ('permuted', dict(transform='identity')),
    ('permuted', dict(transform='random')),
    ('permuted', dict(transform='greedy', similarity='spatial')),
    ('permuted', dict(transform='bipartite', similarity='gap')),
    ('permuted', dict(transform='bipartite', similarity='gap', share=True)),
    ('permuted', dict(transform='bipartite', similarity='spatial')),
)


class LinkLoss(Hook):
    """The link's loss in every iteration."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss_kd_fpn'].item())


def permute_fpn(state: dict, order: torch.Tensor) -> dict:
    """Permute the FPN's output channels and undo it at the head's input."""
    state = {key: value.clone() for key, value in state.items()}
    for key, value in state.items():
        if key.startswith('neck.fpn_convs.'):
            state[key] = value[order]
        elif key in (
            'bbox_head.cls_convs.0.conv.weight',
            'bbox_head.reg_convs.0.conv.weight',
        ):
            state[key] = value[:, order]
    return state


def same_predictions(model_cfg, paths: list[Path]) -> float:
    """Largest difference between the head's outputs of two sets of weights."""
    outputs = []
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
        for path in paths:
            model = MODELS.build(model_cfg).eval()
            load_checkpoint(model, str(path))
            outputs.append(model(image, mode='tensor'))
    scores = [torch.cat([level.flatten() for level in out[0]]) for out in outputs]
    return float((scores[0] - scores[1]).abs().max())


def prepare(folder: Path) -> dict:
    """Train the network once; write the teachers and the student's start."""
    cfg = digits_config(folder / 'reference', images=IMAGES, epochs=EPOCHS, seed=0)
    if not (folder / f'reference/epoch_{EPOCHS}.pth').is_file():
        train(cfg)
    states = {
        name: read_checkpoint(str(folder / f'reference/epoch_{n}.pth'), key='run')[
            'state_dict'
        ]
        for name, n in (('start', START), ('plain', EPOCHS))
    }
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    states['permuted'] = permute_fpn(states['plain'], order)
    for name, state in states.items():
        torch.save(dict(state_dict=state), folder / f'{name}.pth')
    paths = [folder / 'plain.pth', folder / 'permuted.pth']
    return dict(order=order, difference=same_predictions(cfg.model, paths))


def ambiguity(folder: Path) -> list[dict]:
    """Mean correlation of the true pairs and of those that 'bipartite' prefers.

    Measured with the teacher as it was, where the true order is 0, 1, 2 ...
    """
    cfg = digits_config(folder / 'ambiguity', images=IMAGES, epochs=1, seed=1)
    teacher = dict(config=str(STUDENT), checkpoint=str(folder / 'plain.pth'))
    distil(cfg, teacher=teacher, stages=[], criterion=dict(type='kd_mm.MSELoss'))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        load_checkpoint(model, str(folder / 'start.pth'))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        loader = plain_loader(cfg, dataset, images=IMAGES, annotations=True)
        levels = [LevelStatistics(KINDS) for _ in range(3)]
        with undisturbed(model):
            for pairs in feature_pairs(model, loader, ['fpn'], title='statistics'):
                observe(levels, pairs['fpn'])
    rows = []
    for kind in KINDS:
        per_level = [level.covariance(kind) for level in levels]
        for share in (False, True):
            covs = [Covariance.pooled(per_level)] if share else per_level
            best = [fit_map('bipartite', cov) for cov in covs]
            true = [control_map('identity', *cov.st.shape, 0) for cov in covs]
            rows.append(
                dict(
                    similarity=kind,
                    share=share,
                    true=[_mean_correlation(*pair) for pair in zip(covs, true)],
                    best=[_mean_correlation(*pair) for pair in zip(covs, best)],
                    found=[
                        float((b.first == t.first).double().mean())
                        for b, t in zip(best, true)
                    ],
                )
            )
    return rows


def _mean_correlation(cov, mapping) -> float:
    return round(float(matched_correlation(cov, mapping).mean()), 4)


def distilled(folder: Path, teacher: str, align: dict, order: torch.Tensor) -> dict:
    """One run; what became of the loss, and how much of the order was found."""
    name = '-'.join([teacher, *(str(value) for value in align.values())])
    cfg = digits_config(folder / name, images=IMAGES, epochs=DISTIL_EPOCHS, seed=1)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.load_from = str(folder / 'start.pth')
    stage = dict(type='kd_mm.ChannelAlign', fit_at='start', images=IMAGES, **align)
    distil(
        cfg,
        teacher=dict(config=str(STUDENT), checkpoint=str(folder / f'{teacher}.pth')),
        stages=[stage],
        criterion=dict(type='kd_mm.MSELoss', weight=5.0),
    )
    watch = LinkLoss()
    runner = train(cfg, watch)
    stage = runner.model.distiller.links.fpn.stages[0]
    planted = order.argsort() if teacher == 'permuted' else torch.arange(len(order))
    maps = [stage.map(level).index for level in range(3)]
    found = [float((index[0] == planted).float().mean()) for index in maps]
    epoch = len(watch.values) // DISTIL_EPOCHS
    return dict(
        teacher=teacher,
        **align,
        first_mse=sum(watch.values[:5]) / 25,
        last_mse=sum(watch.values[-epoch:]) / epoch / 5,
        found=found,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--folder', type=Path, default=Path('work_dirs/kcd_planted'))
    folder = parser.parse_args().folder.resolve()
    torch.set_num_threads(1)
    began = time.time()
    about = prepare(folder)
    rows = [distilled(folder, *run, about['order']) for run in RUNS]
    table = Table(title='adapter-free MSE on the FPN, sum over three levels')
    for column in ('teacher', 'transform', 'first 5 steps', 'last epoch', 'found, %'):
        table.add_column(column)
    for row in rows:
        found = '/'.join(f'{100 * share:.0f}' for share in row['found'])
        numbers = (f'{row["first_mse"]:.4f}', f'{row["last_mse"]:.4f}')
        what = row['transform'] + f' {row.get("similarity", "")}'
        what += ', one map' * row.get('share', False)
        table.add_row(row['teacher'], what, *numbers, found)
    Console().print(table)
    print(
        f'the permuted teacher predicts the same to {about["difference"]:.1e}; '
        f'{time.time() - began:.0f} s'
    )
    result = dict(
        images=IMAGES,
        epochs=dict(teacher=EPOCHS, start=START, distilled=DISTIL_EPOCHS),
        prediction_difference=about['difference'],
        statistics=ambiguity(folder),
        runs=rows,
    )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + '\n')
    refresh()


if __name__ == '__main__':
    main()
