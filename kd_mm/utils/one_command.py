"""``tools/train.py STUDENT --teacher TEACHER``: any plain config, distilled."""

import copy
import os.path as osp
import shlex

from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from torch import nn

from ..auto import AUTO, NAMES
from ..errors import ConfigError
from ..front import distil_config
from .export import is_distilled
from .files import check_checkpoint
from .fine_tuning import proposal
from .length import set_length
from .loading import check_fits, find_file
from .states import some
from .work_dir import newest

START = '--student-checkpoint'


def add_arguments(parser):
    """Add what makes a distilled config of a plain one.

    Args:
        parser (ArgumentParser): Of the tool.
    """
    group = parser.add_argument_group(
        'distillation of a plain config',
        'CONFIG is the student; what is found and chosen stands in the log and in the '
        'config that is written into the work dir',
    )
    group.add_argument(
        '--teacher', metavar='CONFIG', help="the teacher's config, a file or mmdet::..."
    )
    group.add_argument(
        '--teacher-checkpoint',
        metavar='CKPT',
        help="the teacher's weights, file or URL; by default load_from of its config",
    )
    group.add_argument(
        '--method',
        metavar='NAME',
        help=f'how to distil: {", ".join(NAMES)}; default: {AUTO}',
    )
    group.add_argument(
        START,
        metavar='CKPT',
        help='weights of a student that is trained already, to start from',
    )


def changed(cfg, args):
    """The config that is trained: distilled on request, of another length on request.

    Args:
        cfg (Config): As it was read.
        args (argparse.Namespace): See :func:`add_arguments`; and ``epochs``.

    Raises:
        ConfigError: If arguments contradict each other or the config.
    """
    cfg = distilled(cfg, args)
    if args.teacher:  # now, not behind all that MMEngine prints of machine and config
        _check_weights(cfg, args)
    if args.epochs is not None:
        if args.epochs < 1:
            raise ConfigError(f'--epochs={args.epochs}: at least 1')
        set_length(cfg, args.epochs)
    return cfg


def _check_weights(cfg, args):
    """Refuse weights of the teacher that are not there, or are none."""
    path = cfg.model.teacher.checkpoint
    key = '--teacher-checkpoint' if args.teacher_checkpoint else 'teacher.checkpoint'
    if path and '://' not in path:
        check_checkpoint(find_file(path, key=key), key=key, trust=args.trust)


def distilled(cfg, args):
    """The config that the arguments ask for.

    Args:
        cfg (Config): As it was read.
        args (argparse.Namespace): See :func:`add_arguments`.

    Returns:
        Config: ``cfg`` itself without ``--teacher``.

    Raises:
        ConfigError: If arguments contradict each other or the config.
    """
    if args.teacher:
        return distil_config(
            cfg,
            args.teacher,
            method=args.method or AUTO,
            teacher_checkpoint=args.teacher_checkpoint,
            # to start from weights is to be trained already, whoever says it
            student_checkpoint=args.student_checkpoint
            or (args.cfg_options or {}).get('load_from'),
        )
    already = is_distilled(cfg.get('model'))
    keys = dict(method='links', teacher_checkpoint='teacher.checkpoint')
    for option, key in keys.items():
        if getattr(args, option) is None:
            continue
        name, why = f'--{option.replace("_", "-")}', 'needs --teacher'
        if already:
            why = f'{cfg.filename} is distilled already; what it says is changed by'
            why += f' --cfg-options model.{key}=...'
        raise ConfigError(f'{name}: {why}')
    if args.student_checkpoint:
        if not already:
            raise ConfigError(
                f'{START} needs --teacher: {cfg.filename} is not distilled; for a '
                f'plain training: --cfg-options load_from={args.student_checkpoint}'
            )
        cfg.load_from = args.student_checkpoint
    return cfg


def tell(cfg, args, model):
    """Say what the arguments have led to, before training starts.

    Args:
        cfg (Config): The config of the run.
        args (argparse.Namespace): See :func:`add_arguments`.
        model (nn.Module | dict): As it was built, or will be.

    Raises:
        ConfigError: If the student's checkpoint is of another model.
    """
    logger = MMLogger.get_current_instance()
    if not _goes_on_there(cfg) and (found := newest(cfg.work_dir, trust=args.trust)):
        what = f'goes on from {cfg.load_from}' if cfg.get('resume') else 'starts anew'
        logger.warning(
            f'kd_mm: {found} is of an earlier run, and this one {what} in its folder '
            'and may overwrite it; --resume goes on from it, --work-dir keeps the two '
            'apart'
        )
    if args.teacher:
        path = osp.join(cfg.work_dir, osp.basename(cfg.filename))
        logger.info(
            f'kd_mm: {path} is the whole config, to be edited and trained again'
        )
    if args.teacher and not args.teacher_checkpoint and cfg.model.teacher.checkpoint:
        logger.warning(
            'kd_mm: the teacher has the weights that its config starts from, '
            f'{cfg.model.teacher.checkpoint}; --teacher-checkpoint gives others'
        )
    if args.student_checkpoint and not cfg.get('resume'):
        _tell_start(cfg, args, model, logger)


def _goes_on_there(cfg):
    """Whether a run goes on from a checkpoint of its own folder."""
    if not cfg.get('resume'):
        return False
    begin = cfg.get('load_from')  # None: sharded ones, which MMEngine finds there
    return begin is None or osp.realpath(osp.dirname(begin)) == osp.realpath(
        cfg.work_dir
    )


class FromItsBegin(Hook):
    """Writes the config of a resumed run as that of the run which it goes on with.

    What MMEngine writes into the work dir says `resume`, so that whoever trains with it
    again, in another folder or with another setting, would go on from this run's end.

    Args:
        begin (str | None): ``load_from``, without what is resumed.
    """

    priority = 'LOWEST'  # DistillHook writes the config, too

    def __init__(self, begin):
        self.begin = begin

    def before_run(self, runner):
        if runner.cfg.filename and get_rank() == 0:
            cfg = copy.deepcopy(runner.cfg)
            cfg.resume, cfg.load_from = False, self.begin
            cfg.dump(osp.join(runner.work_dir, osp.basename(cfg.filename)))


def tell_resumed(cfg, *, trust):
    """Say that nothing is left to train, or that a schedule goes on as it was.

    MMEngine restores schedulers whole, with their lengths; hooks and the end of
    training follow the config.

    Args:
        cfg (Config): Of a run that goes on from ``load_from``.
        trust (bool): Whether that checkpoint may run code.
    """
    content = check_checkpoint(cfg.load_from, key='--resume: checkpoint', trust=trust)
    if line := _nothing_left(cfg, content.get('meta') or {}):
        MMLogger.get_current_instance().warning(f'kd_mm: --resume: {line}')
        return
    info = content.get('message_hub', {}).get('runtime_info', {})
    before, now = info.get('max_epochs'), cfg.train_cfg.get('max_epochs')
    if before and now and before != now:
        MMLogger.get_current_instance().warning(
            f'kd_mm: --resume: the run of {cfg.load_from} was made for {before} '
            f'epochs, and this one is for {now}: its learning rate goes on as in the '
            'checkpoint, and param_scheduler of the config has no effect; a new '
            'schedule begins with load_from'
        )


def tell_result(cfg, runner):
    """Say which checkpoint there is after training, and what is done with it next.

    Args:
        cfg (Config): The config of the run.
        runner (Runner | FlexibleRunner): When it is through.
    """
    which, path = _result(cfg, runner.hooks)
    if not path or not (osp.isfile(path) or '://' in path):
        return  # none was asked for, or a folder of shards
    config = osp.join(cfg.work_dir, osp.basename(cfg.filename))
    then = []
    if cfg.get('test_dataloader'):
        then.append(shlex.join(['python', '-m', 'kd_mm', 'test', config, path]))
    if is_distilled(cfg.model):
        out = osp.join(cfg.work_dir, 'student.pth')
        command = ['python', '-m', 'kd_mm', 'export_student', path, out]
        then.append(f'{shlex.join(command)} (the plain student)')
    runner.logger.info(
        f'kd_mm: {"; ".join([f"the {which} checkpoint is {path}", *then])}'
    )


def _result(cfg, hooks):
    """Which checkpoint is the run's result: 'best' or 'last', and its path or None."""
    saving = [hook for hook in hooks if isinstance(hook, CheckpointHook)]
    for hook in saving:
        by_metric = getattr(hook, 'best_ckpt_path_dict', {})
        paths = [getattr(hook, 'best_ckpt_path', None), *by_metric.values()]
        if any(paths):
            return 'best', next(filter(None, paths))
    last = [hook.last_ckpt for hook in saving if hook.last_ckpt]
    return 'last', last[-1] if last else cfg.get('resume') and cfg.get('load_from')


def _nothing_left(cfg, meta):
    """One line where a checkpoint is at the end of training already, else ''."""
    more = dict(epoch='--epochs', iter='--cfg-options train_cfg.max_iters')
    for unit, option in more.items():
        end = cfg.train_cfg.get(f'max_{unit}s')
        if end and meta.get(unit, 0) >= end:
            return (
                f'{cfg.load_from} is at {unit} {meta[unit]} of {end}: nothing is left '
                f'to train; a larger {option} trains on'
            )
    return ''


def _tell_start(cfg, args, model, logger):
    path = args.student_checkpoint
    lost = []
    if isinstance(model, nn.Module):  # a FlexibleRunner builds it later
        lost = check_fits(model, path, key=START, trust=args.trust)
    if lost:
        logger.warning(
            f'kd_mm: {START} {path}: {len(lost)} tensors of the student are not in it '
            f'and start anew ({some(lost)})'
        )
    shortened = args.epochs is not None
    if line := proposal(cfg, args.cfg_options or {}, shortened=shortened):
        logger.warning(f'kd_mm: {START}: {line}')
