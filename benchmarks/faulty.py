"""Thirty ways in which distillation fails without a word, for benchmarks/faults.py.

Each is modelled on a public thread, in words of our own, and is injected into a healthy
config: by what the config says, by a checkpoint, or by a part of one's own.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from combine import CONFIGS, hosts
from digits_runs import ROOT, TEACHER
from faulty_parts import permuted, pruned, random, random_head, tenfold, zero
from mmengine.config import Config
from suites_cls import digits_cls_teacher

STUDENT = ROOT / 'work_dirs/faults/student'  # trained alone, for faults that need one
RESIZE = dict(type='kd_mm.Resize', side='teacher', mode='area')


# --- healthy runs ---------------------------------------------------------------------
def digits(links: dict | None = None) -> Config:
    """ResNet-20 to ResNet-8 on handwritten digits, logits and the last map."""
    cfg = Config.fromfile(CONFIGS / 'digits/resnet20_resnet8_sokd.py')
    cfg.model.teacher.checkpoint = str(digits_cls_teacher())
    found = links or hosts()['KD'] | hosts()['FitNet without adapter']
    cfg.model.pop('links')
    cfg.model.links = copy.deepcopy(found)
    return cfg


def cifar(name: str = 'kd') -> Config:
    """ResNet-56 to ResNet-20 on the CIFAR-10 subset."""
    cfg = Config.fromfile(CONFIGS / f'cifar10/resnet56_resnet20_{name}.py')
    cfg.model.teacher.checkpoint = str(ROOT / 'checkpoints/cifar10/resnet56.pth')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.dataset.data_root = str(ROOT / 'data/cifar10')
    return cfg


def boxes(name: str = 'fitnet') -> Config:
    """RetinaNet on digits over photographs."""
    folder = ROOT / 'configs/kd/digits'
    cfg = Config.fromfile(folder / f'retinanet_r18w24_r18w16_{name}_digits.py')
    cfg.model.teacher.config = str(TEACHER)
    cfg.model.teacher.checkpoint = str(TEACHER.with_suffix('.pth'))
    return cfg


# --- what can be done to them ---------------------------------------------------------
def _teacher(cfg: Config, folder: Path, change: Callable[[dict], None]) -> None:
    """Give the teacher a checkpoint with other weights."""
    path = cfg.model.teacher.checkpoint
    state = torch.load(path, map_location='cpu', weights_only=False)['state_dict']
    change(state)
    torch.save(dict(state_dict=state), folder / 'teacher.pth')
    cfg.model.teacher.checkpoint = str(folder / 'teacher.pth')


def _own_config(cfg: Config, **changes) -> None:
    """Give the teacher a config of its own, with another data preprocessor."""
    whole = Config.fromfile(CONFIGS / 'cifar10/resnet56.py')
    whole.data_preprocessor.update(changes)
    cfg.model.teacher.config = dict(
        model=whole.model.to_dict(),
        data_preprocessor=whole.data_preprocessor.to_dict(),
        default_scope='mmpretrain',
    )


def _pipeline(cfg: Config, step: dict, *loaders: str) -> None:
    for name in loaders:
        cfg[name].dataset.dataset.pipeline = [step, dict(type='PackInputs')]


def _more_classes(cfg: Config, folder: Path) -> None:
    whole = Config.fromfile(CONFIGS / 'digits/resnet20.py')
    whole.model.head.num_classes = 20
    cfg.model.teacher.config = dict(
        model=whole.model.to_dict(),
        data_preprocessor=whole.data_preprocessor.to_dict(),
        default_scope='mmpretrain',
    )
    cfg.model.links.pop('logits')

    def widen(state: dict) -> None:
        for part in ('weight', 'bias'):
            old = state[f'head.fc.{part}']
            state[f'head.fc.{part}'] = torch.cat([old.flip(0), old])

    _teacher(cfg, folder, widen)


def _scaled(factor: float) -> Callable[[Config, Path], None]:
    def inject(cfg: Config, folder: Path) -> None:
        for link in cfg.model.links.values():
            link.criterion.weight = factor * link.criterion.get('weight', 1.0)

    return inject


def _criterion(kind: str) -> Callable[[Config, Path], None]:
    def inject(cfg: Config, folder: Path) -> None:
        cfg.model.links.map.criterion.type = f'kd_mm.{kind}'

    return inject


def _level(cfg: Config, folder: Path) -> None:
    adapt = dict(type='kd_mm.ConvAdapter')
    cfg.model.links.map.update(student='backbone.layer3', teacher='backbone.layer2')
    cfg.model.links.map.stages = [RESIZE, adapt]


def _stride(cfg: Config, folder: Path) -> None:
    link = cfg.model.links.fpn
    link.levels = dict(student=[0, 1], teacher=[1, 2])
    link.stages = [*link.stages, dict(type='kd_mm.Resize')]


def _no_boxes(cfg: Config, folder: Path) -> None:
    names = dict(classes=tuple('ABCDEFGHIJ'))
    cfg.train_dataloader.dataset.metainfo = names


def _std(cfg: Config, folder: Path) -> None:
    small = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    cfg.data_preprocessor.update(small)
    _own_config(cfg, **small)


def _weak(cfg: Config, folder: Path) -> None:
    """A teacher that is barely trained, and a student that is."""
    cfg.load_from = trained_student()

    def blur(state: dict) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(state['head.fc.weight'].shape, generator=generator)
        state['head.fc.weight'] += 1.5 * state['head.fc.weight'].std() * noise

    _teacher(cfg, folder, blur)


def _ruined(cfg: Config, folder: Path) -> None:
    """A trained student, and a learning rate as for one that is not."""
    cfg.load_from = trained_student()
    cfg.optim_wrapper.optimizer.lr = 1.0


def _not_trained(cfg: Config, folder: Path) -> None:
    cfg.optim_wrapper.paramwise_cfg = dict(
        custom_keys={'backbone': dict(lr_mult=0.0, decay_mult=0.0)}
    )


def _fp16(cfg: Config, folder: Path) -> None:
    _teacher(cfg, folder, tenfold)
    cfg.model.teacher.dtype = 'fp16'


def trained_student() -> str:
    """Weights of a student trained alone."""
    path = STUDENT / 'epoch_30.pth'
    if not path.is_file():
        from mmengine.runner import Runner

        cfg = Config.fromfile(CONFIGS / 'digits/resnet8.py')
        cfg.update(work_dir=str(STUDENT), log_level='ERROR')
        Runner.from_cfg(cfg).train()
    return str(path)


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        name (str): In our words.
        thread (str): The public thread that it is modelled on.
        inject (Callable): Does it to a config; gets a folder for files.
        checks (tuple[str, ...]): Parts of the names of those checks of the doctor that
            are about it; what other checks say does not count as found.
        base (Callable): The healthy config. Defaults to digits.
        says (str): Part of the training-time warning that is about it.
    """

    name: str
    thread: str
    inject: Callable[[Config, Path], object]
    checks: tuple[str, ...]
    base: Callable[[], Config] = digits
    says: str = ''


def _with(change: Callable[[dict], None]) -> Callable[[Config, Path], None]:
    return lambda cfg, folder: _teacher(cfg, folder, change)


def _set(key: str, value: object) -> Callable[[Config, Path], None]:
    return lambda cfg, folder: cfg.merge_from_dict({key: value})


TRAIN, BOTH = ('train_dataloader',), ('train_dataloader', 'val_dataloader')
KNOWS = ('teacher weights', 'metric', 'teacher labels', 'training labels')
IMAGES = ('statistics', 'images', 'image values')
FAULTS = (
    Fault(
        'checkpoint of another network',
        'pppppM/mmsegmentation-distiller#8',
        lambda cfg, folder: cfg.model.teacher.update(checkpoint=trained_student()),
        ('teacher',),
    ),
    Fault('teacher of zeros', 'NVIDIA-NeMo/Megatron-Bridge#1422', _with(zero), KNOWS),
    Fault('teacher not loaded', 'open-mmlab/mmrazor#603', _with(random), KNOWS),
    Fault('head not loaded', 'open-mmlab/mmrazor#613', _with(random_head), KNOWS),
    Fault(
        'teacher of other classes',
        'SsisyphusTao/Object-Detection-Knowledge-Distillation#11',
        _more_classes,
        ('classes', 'metric'),
    ),
    Fault('classes permuted', 'open-mmlab/mmdetection#10675', _with(permuted), KNOWS),
    Fault(
        'classes shifted by one',
        'open-mmlab/mmdetection#2896',
        lambda cfg, folder: _pipeline(cfg, dict(type='FaultyLabels'), *BOTH),
        KNOWS,
    ),
    Fault(
        'other class numbers in training than in validation',
        'open-mmlab/mmdetection#2361',
        lambda cfg, folder: _pipeline(cfg, dict(type='FaultyLabels'), *TRAIN),
        ('training labels',),
    ),
    Fault(
        "red and blue swapped in the teacher's config",
        'open-mmlab/mmdetection#5214',
        lambda cfg, folder: _own_config(cfg, to_rgb=True),
        (*IMAGES, 'metric'),
        cifar,
    ),
    Fault(
        'red and blue swapped in the images',
        'open-mmlab/mmpretrain#1799',
        lambda cfg, folder: _pipeline(cfg, dict(type='FaultyImages', swap=True), *BOTH),
        (*IMAGES, 'metric'),
        cifar,
    ),
    Fault(
        'normalisation of the teacher missing',
        'yijingru/BBAVectors-Oriented-Object-Detection#98',
        lambda cfg, folder: _own_config(cfg, mean=[0.0] * 3, std=[1.0] * 3),
        IMAGES,
        cifar,
    ),
    Fault(
        'mean and std of 0..1 on images of 0..255',
        'toandaominh1997/EfficientDet.Pytorch#137',
        _std,
        IMAGES,
        cifar,
    ),
    Fault(
        'training images divided by 255, too',
        'yu-changqian/TorchSeg#8',
        lambda cfg, folder: _as_floats(cfg),
        IMAGES,
    ),
    Fault(
        "std of another model zoo's weights",
        'open-mmlab/mmdetection#796',
        lambda cfg, folder: _own_config(cfg, std=[1.0] * 3),
        IMAGES,
        cifar,
    ),
    Fault(
        'teacher in training mode',
        'vrvlive/knowlege-distillation#2',
        lambda cfg, folder: cfg.merge_from_dict(
            dict(custom_hooks=[dict(type='FaultyMode')])
        ),
        ('teacher mode',),
    ),
    Fault(
        'student detached, its adapter learns',
        'twangnh/Distilling-Object-Detectors#29',
        _set('model.links.map.stages', [RESIZE, dict(type='kd_mm.FaultyDetach')]),
        ('map: reach', 'map: gradient share'),
    ),
    Fault(
        'the tapped part is not trained',
        'joanaapa/Distillation-DNABERT-Promoter#1',
        _not_trained,
        ('optimiser', 'reach'),
    ),
    Fault(
        'pruned teacher with dead channels',
        'SpursLipu/YOLOv3v4-ModelCompression-MultidatasetTraining-Multibackbone#79',
        _with(pruned),
        ('map: taps', 'teacher weights'),
    ),
    Fault(
        'weight 1000 times too large',
        'NVIDIA/FasterTransformer#73',
        _scaled(1000),
        ('gradient share', 'task loss', 'steps'),
        says='drowned',
    ),
    Fault(
        'weight 1000 times too small',
        'clovaai/overhaul-distillation#12',
        _scaled(0.001),
        ('gradient share',),
        says='does nothing',
    ),
    Fault(
        'a sum over channels and positions for a mean',
        'neuralmagic/sparseml#592',
        _criterion('FaultySum'),
        ('gradient share', 'task loss', 'steps'),
        says='drowned',
    ),
    Fault(
        'loss that is always 0',
        'huawei-noah/Efficient-Computing#95',
        _criterion('FaultyZero'),
        ('map: gradient share', 'map: link loss', 'map: reach'),
        says='is 0',
    ),
    Fault(
        'weight 0',
        'roymiles/Simple-Recipe-Distillation#2',
        _set('model.links.map.criterion.weight', 0.0),
        ('links.map',),
    ),
    Fault(
        'levels of other depths paired',
        'SpursLipu/YOLOv3v4-ModelCompression-MultidatasetTraining-Multibackbone#25',
        _level,
        ('map: strides',),
    ),
    Fault(
        'levels off by one stride',
        'irfanICMLL/structure_knowledge_distillation#48',
        _stride,
        ('fpn: strides',),
        boxes,
    ),
    Fault(
        'student better than the teacher',
        'PaddlePaddle/PaddleOCR#5717',
        _weak,
        ('metric',),
    ),
    Fault(
        'no boxes: other class names than in the annotations',
        'open-mmlab/mmdetection#6911',
        _no_boxes,
        ('ground truth', 'classes', 'config', 'train'),
        boxes,
    ),
    Fault(
        'mixup on one side only',
        'microsoft/Cream#126',
        _set('model.student.type', 'FaultyMixup'),
        ('same images',),
    ),
    Fault(
        'trained student, learning rate of an untrained one',
        'IntelLabs/distiller#347',
        _ruined,
        ('link loss', 'task loss', 'steps'),
        says='when the links began',
    ),
    Fault('overflow in fp16', 'lightonai/pylate#239', _fp16, ('fp16', 'taps')),
)


def _as_floats(cfg: Config) -> None:
    """Plain images, one by one, so that a pipeline may change their range."""
    inner = cfg.train_dataloader.dataset.dataset
    inner.pipeline = [dict(type='FaultyImages', divide=255.0), dict(type='PackInputs')]
    cfg.train_dataloader.dataset = inner
    cfg.train_dataloader.collate_fn = dict(type='pseudo_collate')
