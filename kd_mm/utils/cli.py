"""What ``tools/train.py`` and ``tools/test.py`` share: arguments, config, failures."""

import argparse
import os
import os.path as osp
import sys
from pathlib import PurePath
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log

from ..errors import ConfigError
from ..teachers import with_files
from ..toolboxes import check_installed
from .kinds import is_type, type_name
from .loading import find_config
from .overrides import check_overrides, check_top_level, check_values


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are a single line on stderr."""

    def error(self, message):
        print(f'error: {message} (see {self.prog} --help)', file=sys.stderr)
        raise SystemExit(2)


class CfgOptions(DictAction):
    """``DictAction`` that says which ``key=value`` it could not read."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            key, equals, _ = value.partition('=')
            if not (key and equals):
                parser.error(f'{option_string} takes key=value pairs, got {value!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            parser.error(f'{option_string}: {error}')


def add_common_arguments(parser):
    """Add what training and testing have in common, under MMDetection's names."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints; by default work_dir of the config, '
        'then work_dirs/<name of the config>',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config, for example '
        'model.links.fpn.criterion.weight=4 or key="[(a,b),(c,d)]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started (tools/dist_*.sh set it)',
    )
    # torch.distributed.launch passes one spelling or the other, by version.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def add_trust(parser):
    """Add the option that lets checkpoints run code."""
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read checkpoints even if they hold other types than checkpoints do: '
        'such files can run code of whoever made them',
    )


def load_config(path: str) -> Config:
    """The config in a file or in an installed package.

    Args:
        path (str): A file, or ``package::path`` of a packaged config.

    Returns:
        Config: It, with what it is based on.

    Raises:
        ConfigError: When it is not there or cannot be read, naming the base config
            that is at fault, or needs a toolbox that is not installed.

    Examples:
        >>> import kd_mm
        >>> cfg = kd_mm.load_config('kd_mm::kd_cls/digits/resnet20_resnet8_sokd.py')
        >>> cfg.model.type
        'kd_mm.Distill'
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is code: anything can come out of it
        raise ConfigError(_why_unreadable(path, error)) from error
    _paths_as_text(cfg._cfg_dict)
    check_installed(cfg, '')
    return cfg


def _paths_as_text(part: Any) -> None:
    """Replace paths of ``pathlib``, which MMEngine can neither load nor write down."""
    # plain access: that of a config imports what a new-style one names
    pairs = list(dict.items(part) if isinstance(part, dict) else enumerate(part))
    for key, value in pairs:
        imported = isinstance(value, type) and issubclass(value, PurePath)
        if imported and isinstance(part, dict):
            dict.pop(part, key)
        elif isinstance(value, PurePath):
            plain = dict if isinstance(part, dict) else list
            plain.__setitem__(part, key, str(value))
        elif isinstance(value, dict | list):
            _paths_as_text(value)


def read_config(args, change=None):
    """The config of ``args``, with its overrides, launcher and work dir.

    Args:
        args (argparse.Namespace): ``config``, ``cfg_options``, ``launcher``,
            ``work_dir`` and ``local_rank``; ``trust`` where the tool has it.
        change (Callable, optional): Makes another config of the one in the file,
            before anything is overridden. Defaults to None.

    Returns:
        Config: The config; its ``work_dir`` is not made yet.

    Raises:
        ConfigError: For anything that keeps the file from being read, a top-level
            key or an override that looks like a typo, or a bad ``--work-dir``.
    """
    cfg = load_config(args.config)
    path = cfg.filename
    check_top_level(cfg)
    cfg = change(cfg) if change else cfg
    if args.cfg_options:
        check_overrides(cfg, args.cfg_options)
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(f'--cfg-options does not fit {path}: {error}') from error
    check_values(cfg)
    cfg.launcher = args.launcher
    teacher = (cfg.get('model') or {}).get('teacher')
    if getattr(args, 'trust', False) and isinstance(teacher, dict):
        for part in with_files(teacher).values():
            part['trust'] = True
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('./work_dirs', name)
    parent = cfg.work_dir
    while parent and not osp.lexists(parent):
        parent = osp.dirname(parent)
    if parent and not osp.isdir(parent):
        raise ConfigError(f'work dir {cfg.work_dir}: {parent} is a file, not a folder')
    return cfg


def _why_unreadable(path, error):
    """One line for an exception of ``Config.fromfile``, naming the file it was in."""
    trace = error.__traceback__
    while trace is not None:  # the innermost base config that was being read
        if trace.tb_frame.f_code.co_name in ('_file2dict', '_parse_lazy_import'):
            path = trace.tb_frame.f_locals.get('filename', path)
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        text = (error.text or '').strip()
        return f'config {path}, line {error.lineno}: {error.msg}: {text}'
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'config {path} cannot be read: {type(error).__name__}: {text}'


def need(cfg, key, task):
    """Raise ``ConfigError`` when a config lacks what a task cannot go without."""
    if cfg.get(key) is None:
        raise ConfigError(f'{cfg.filename} has no {key}: there is nothing to {task}')


def check_output(path):
    """Raise ``ConfigError`` unless predictions can be written to ``path``."""
    if path is None:
        return
    if not path.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out writes a pickle: {path} must end in .pkl')
    folder = osp.dirname(path) or '.'
    if not osp.isdir(folder):
        raise ConfigError(f'--out: the folder {folder} does not exist')


def draw_into(cfg, folder):
    """Switch the config's visualization hook on.

    Raises:
        ConfigError: When ``default_hooks`` has no such hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ConfigError('--show-dir needs default_hooks.visualization in the config')
    if is_type(hook, 'DetVisualizationHook'):
        hook.update(draw=True, test_out_dir=folder)
    else:  # MMPretrain's, which draws one image of 5000
        hook.update(enable=True, out_dir=folder, interval=1)


def dump_predictions(runner, path):
    """Have the predictions of ``runner.test()`` written to ``path`` (a pickle).

    Raises:
        ConfigError: When each of several data sets has a metric of its own:
            MMDetection then asks no other.
    """
    from mmengine.evaluator import DumpResults

    from .wrappers import unwrapped

    if len(getattr(runner.test_evaluator, 'dataset_prefixes', None) or []) > 1:
        raise ConfigError(
            '--out: test_evaluator has a metric for each of several data sets '
            '(dataset_prefixes), and MMDetection hands predictions to no other; test '
            'them one by one'
        )

    kind: Any = DumpResults
    lineage = type(unwrapped(runner.model)).__mro__
    if any(base.__module__.startswith('mmdet.') for base in lineage):
        from mmdet.evaluation import DumpDetResults

        kind = DumpDetResults  # encodes masks
    runner.test_evaluator.metrics.append(kind(out_file_path=path))


def use_amp(cfg):
    """Turn ``optim_wrapper`` into its mixed-precision form.

    On an accelerator that is ``AmpOptimWrapper`` with a dynamic loss scale; on CPU
    bfloat16, which needs no loss scale.

    Raises:
        ConfigError: When the config has another kind of optim wrapper.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    if 'type' in wrapper and not is_type(wrapper, 'OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp needs optim_wrapper.type OptimWrapper or AmpOptimWrapper, '
            f'the config has {type_name(wrapper)}'
        )
    if get_device() == 'cpu':
        from . import amp  # noqa: F401  registers the wrapper

        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    else:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def use_auto_scale_lr(cfg):
    """Switch the scaling of the learning rate by batch size on.

    Raises:
        ConfigError: When the config does not say for which batch size it is made.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ConfigError('--auto-scale-lr needs auto_scale_lr.base_batch_size')
    cfg.auto_scale_lr.enable = True


def prepare_launcher(cfg):
    """Make a distributed start fit the machine: gloo where there is no accelerator.

    MMEngine selects a CUDA device before it makes the process group and hands device
    ids to DDP; both fail on CPU, so the group is made here and the ids are dropped.

    Raises:
        ConfigError: For more processes than GPUs, or a launcher that needs GPUs.
    """
    if cfg.launcher == 'none':
        return
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ConfigError('--launcher pytorch needs torchrun: use tools/dist_train.sh')
    if get_device() != 'cpu':
        local, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), 0
        if get_device() == 'cuda':
            gpus = torch.cuda.device_count()
        if gpus and local > gpus:
            raise ConfigError(f'{local} processes on a machine with {gpus} GPU(s)')
        return
    if cfg.launcher != 'pytorch':
        raise ConfigError(f'--launcher {cfg.launcher} needs an accelerator, none found')
    env_cfg = cfg.setdefault('env_cfg', {})
    env_cfg['dist_cfg'] = {**(env_cfg.get('dist_cfg') or {}), 'backend': 'gloo'}
    wrapper = cfg.get('model_wrapper_cfg') or {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}
    torch.distributed.init_process_group('gloo')
    if torch.distributed.get_rank() == 0:
        world = torch.distributed.get_world_size()
        print_log(
            f'No accelerator found: {world} process(es) on CPU, backend gloo, '
            f'{torch.get_num_threads()} thread(s) each',
            'current',
        )


def build_runner(cfg):
    """Build the runner the config asks for (``runner_type``, or the usual one)."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
