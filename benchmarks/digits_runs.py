"""Small paired runs on the digits, for the benchmarks."""

import statistics
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from kd_mm.datasets import make_digits
from kd_mm.utils.kinds import is_type

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'data' / 'digits'
STUDENT = ROOT / 'configs/kd/digits/retinanet_r18w16_digits.py'
TEACHER = ROOT / 'configs/kd/digits/retinanet_r18w24_digits.py'


def digits_config(
    work_dir: Path,
    *,
    images: int,
    epochs: int,
    seed: int,
    batch_size: int = 8,
    student: Path = STUDENT,
) -> Config:
    """A digits student's config, cut down to ``images`` and ``epochs``.

    Two runs with one seed start from the same weights and see the same batches. No
    worker processes, so that a run keeps to one core; evaluated once, at the end.
    """
    if not DATA.is_dir():
        make_digits(DATA)
    cfg = Config.fromfile(student)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = f'{DATA}/'
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        pipeline = loader.dataset.pipeline  # predictions need to know the scale
        if not any(is_type(step, 'Resize') for step in pipeline):
            size = dict(type='Resize', scale=(128, 128), keep_ratio=True)
            loader.dataset.pipeline = [pipeline[0], size, *pipeline[1:]]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f'{DATA}/annotations/instances_val.json'
    cfg.train_dataloader.batch_size = batch_size
    cfg.train_dataloader.dataset.indices = images
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].T_max = epochs
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 25
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.parent.name}-{work_dir.name}'
    cfg.log_level = 'WARNING'
    return cfg


def distil(
    cfg: Config, *, teacher: dict, stages: list[dict], criterion: dict
) -> Config:
    """Let the config's model be distilled on all levels of its neck."""
    link = dict(student='neck', teacher='neck', stages=stages, criterion=criterion)
    cfg.model = dict(
        type='kd_mm.Distill',
        student=cfg.model.to_dict(),
        teacher=teacher,
        links=dict(fpn=link),
        trial_size=(128, 128),
    )
    return cfg


def train(cfg: Config, *hooks) -> Runner:
    """Train; the last metrics are in ``runner.message_hub``."""
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def metric(
    runner: Runner, name: str = 'coco/bbox_mAP', *, scale: float = 100.0
) -> float:
    """A validation metric in percent.

    Raises:
        ValueError: If there is none: MMDetection has no mAP of no predictions.
    """
    if f'val/{name}' not in runner.message_hub.log_scalars:
        raise ValueError(f'no {name}: nothing was predicted')
    return scale * runner.message_hub.get_scalar(f'val/{name}').current()


def mean_std(values: list[float]) -> str:
    """``mean ± standard deviation`` as text."""
    spread = statistics.stdev(values) if len(values) > 1 else float('nan')
    return f'{statistics.mean(values):.2f} ± {spread:.2f}'
