"""Build toy models, batches and runners."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from kd_mm.pair import FeaturePair
from kd_mm.trial import trial_samples

register_all_modules(init_default_scope=False)

GPU = pytest.param(
    'cuda',
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
    ],
)
DEVICES = ['cpu', GPU]  # of tests that a CPU takes as well


def fitnet(*, weight: float = 1.0, **kwargs) -> dict:
    """A FitNet link between the necks."""
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=weight),
            **kwargs,
        )
    )


def link(tap: str, *, stages=(), criterion: str = 'MSELoss', **kwargs) -> dict:
    """A link between one tap of both networks; no stages unless they are given."""
    return dict(
        fpn=dict(
            student=tap,
            teacher=tap,
            stages=list(stages),
            criterion=dict(type=f'kd_mm.{criterion}'),
            **kwargs,
        )
    )


def distill_cfg(student, teacher, links=None, *, teacher_kwargs=None, **kwargs) -> dict:
    """Config of a distilled model with a random teacher."""
    guide = dict(config=teacher, allow_random=True, **(teacher_kwargs or {}))
    return dict(
        type='kd_mm.Distill',
        student=student,
        teacher=guide,
        links=links if links is not None else fitnet(),
        trial_size=(128, 128),
        **kwargs,
    )


def build(cfg: dict, *, seed: int = 0):
    """Build and initialise a model as the Runner does, with ``seed``."""
    torch.manual_seed(seed)
    scope = 'mmpretrain' if 'ImageClassifier' in str(cfg) else 'mmdet'
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model.train()


def detection_batch(count: int = 2, *, sizes=None, classes: int = 4) -> dict:
    """Unprocessed detection batch with boxes and masks."""
    sizes = sizes or [(3, 128, 128)] * count
    return demo_mm_inputs(count, sizes, num_classes=classes, with_mask=True)


def blotchy_batches(count: int = 4) -> list[dict]:
    """Detection batches whose images differ in more than noise."""
    generator = torch.Generator().manual_seed(7)
    data = [detection_batch() for _ in range(count)]
    for batch in data:
        batch['inputs'] = [
            F.interpolate(
                torch.rand(1, 3, 4, 4, generator=generator) * 255, image.shape[1:]
            )[0].byte()
            for image in batch['inputs']
        ]
    return data


def classification_batch(count: int = 4, *, size: int = 64, classes: int = 4) -> dict:
    """Unprocessed classification batch."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    samples = [DataSample().set_gt_label(i % classes) for i in range(count)]
    return dict(inputs=list(image.to(torch.uint8)), data_samples=samples)


def losses_of(model, batch: dict) -> dict:
    """Losses of one batch, through the model's own preprocessor."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    return model(**data, mode='loss')


def train_steps(model, batch: dict, steps: int = 3, *, lr: float = 0.01) -> list[dict]:
    """A few steps of clipped SGD; returns what was logged."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    logs = []
    for _ in range(steps):
        total, log = model.parse_losses(losses_of(model, batch))
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        logs.append({name: float(value) for name, value in log.items()})
    return logs


@DATASETS.register_module()
class PackedImages(Dataset):
    """A few detection images in memory, as packed by a pipeline."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __init__(self, count: int = 8, size: int = 96) -> None:
        batch = demo_mm_inputs(count, [(3, size, size)] * count, num_classes=4)
        keys = ('inputs', 'data_samples')
        self.items = [dict(zip(keys, i)) for i in zip(*(batch[k] for k in keys))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return copy.deepcopy(self.items[index])


@METRICS.register_module()
class ImageCount(BaseMetric):
    """How many images were evaluated."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(images=len(results))


def _loader(count: int, shuffle: bool) -> dict:
    return dict(
        dataset=dict(type='mmengine.PackedImages', count=count),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='pseudo_collate'),
    )


def runner(
    model: dict,
    work_dir: Path,
    *,
    epochs: int = 2,
    seed: int = 0,
    kind: type = Runner,
    **extra,
):
    """A runner of MMEngine over :class:`PackedImages`."""
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=model,
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            train_dataloader=_loader(8, shuffle=True),
            val_cfg=dict(),
            val_dataloader=_loader(4, shuffle=False),
            val_evaluator=dict(type='mmengine.ImageCount'),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
                clip_grad=dict(max_norm=5.0),
            ),
            randomness=dict(seed=seed, deterministic=False),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=1),
            ),
            log_level='WARNING',
            experiment_name=f'{Path(work_dir).name}-{id(work_dir)}',
        )
    )
    cfg.merge_from_dict(extra)
    return kind.from_cfg(cfg)


def trial_pair(student, teacher, size=(32, 32)) -> FeaturePair:
    """One level of features, with the samples and image size of a trial."""
    return FeaturePair(
        link='x',
        student=[student],
        teacher=[teacher],
        samples=trial_samples(len(student), size),
        image_size=size,
    )
