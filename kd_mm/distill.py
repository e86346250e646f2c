"""``kd_mm.Distill``: the student itself, plus a distiller while it trains."""

import copy
import difflib
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from .auto import AUTO, check_method, find_links
from .colours import plain_batch
from .distiller import Distiller
from .errors import ConfigError, within
from .hooks.distill_hook import attach_to_runners
from .inherit import check_inherited, inherit
from .link import Link, check_parts
from .modes import as_in_prediction
from .options import Count, Natural, check_options, checked
from .outputs import outputs_of, with_positions
from .pair import VECTOR, LayoutError, layout
from .registry import MODELS
from .rehearsal import check_features, refuse_other_inputs, rehearse
from .share import ratios
from .sizes import channels
from .student import check_built, check_loss, check_saved, without_distiller
from .taps import Recording, Tap, Taps
from .teachers import Teachers, named, network_of
from .toolboxes import check_installed
from .trial import device_of, on_device
from .utils.kinds import is_type
from .utils.pretraining import watched_pretraining
from .utils.randomness import kept_random

attach_to_runners()


class DistilledMixin(nn.Module if TYPE_CHECKING else object):  # type: ignore[misc]
    """What a distilled student does differently: its loss, and its first weights."""

    distiller: Distiller
    inherited: tuple[str, ...]
    keeps_weights = False  # it was built, and perhaps trained, before

    def loss(self, *args: Any, **kwargs: Any) -> dict:
        """The student's own losses, and one line per link on top while training."""
        if not self.training:
            return self._student_loss(*args, **kwargs)
        inputs, data_samples, *_ = *args, *kwargs.values()  # first, by any name
        distiller = self.distiller
        if distiller.measuring:  # not in steps that are taken back
            distiller.teachers.follow(self)
        moment = distiller.factors()
        factors = distiller.on('labelled', moment)
        if not any(factors.values()):
            losses = self._student_loss(*args, **kwargs)
            added = distiller.idle(inputs, factors) | self._without_labels(moment)
            return self._watched(losses, added)
        teacher = self._taught(inputs, data_samples, factors)
        specs = distiller.specs('student', factors)
        with distiller.taps['student'].record(self, specs=specs) as student:
            losses = self._student_loss(*args, **kwargs)
        distiller.hear(losses, factors)
        added = distiller(student, teacher, data_samples, inputs.shape[2:], factors)
        added |= distiller.idle(inputs, factors) | self._without_labels(moment)
        return self._watched(losses, added)

    def _taught(
        self, inputs: Tensor, samples: Sequence[Any], factors: dict[str, float]
    ) -> Recording:
        """What the teachers make of a batch."""
        teachers, plain = self.distiller.teachers, None
        if teachers.plain_colours:
            plain = plain_batch(self.data_preprocessor, samples, inputs)
        specs = self.distiller.specs('teacher', factors)
        return teachers(inputs, samples, specs, plain)

    def _without_labels(self, moment: dict[str, float]) -> dict[str, Tensor]:
        """What the links say of the images without labels that came for this step.

        The student trains on them as far as its last tap; its buffers follow them.
        """
        distiller, batch = self.distiller, self.distiller.unlabelled
        factors = distiller.on('unlabelled', moment)
        distiller.unlabelled = None
        if batch is None or not any(factors.values()):
            return {}
        data = self.data_preprocessor(batch, False)  # mixing images takes labels
        inputs, samples = data['inputs'], data['data_samples']
        teacher = self._taught(inputs, samples, factors)
        specs = distiller.specs('student', factors)
        record = distiller.taps['student'].record
        with as_in_prediction(self), record(self, specs=specs, stop=True) as student:
            self(inputs, samples, mode='predict')
        with distiller.not_measuring():
            added = distiller(student, teacher, samples, inputs.shape[2:], factors)
        return {f'{name}_unlabelled': value for name, value in added.items()}

    def _watched(self, losses: dict, added: dict) -> dict:
        merged = _merge(losses, added)
        if self.distiller.measuring:  # passes that are taken back are no steps
            self.distiller.watch(merged)
        return merged

    def _student_loss(self, *args: Any, **kwargs: Any) -> dict:
        return super().loss(*args, **kwargs)

    def init_weights(self) -> None:
        """The student's own initialisation, then what it inherits from the teacher."""
        if not self.keeps_weights:  # a model's init_cfg reaches all its modules
            with without_distiller(self), watched_pretraining(self):
                super().init_weights()
        if self.inherited:
            inherit(self, self.distiller.teacher.model, self.inherited)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """The student's own hooks, which may rename all keys, do not see ours."""
        ours = [key for key in state_dict if key.startswith(f'{prefix}distiller.')]
        aside = {key: state_dict.pop(key) for key in ours}
        super()._load_from_state_dict(state_dict, prefix, *args)
        state_dict.update(aside)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """The class is made on the fly, so a pickle names the student's."""
        _, _, *state = super().__reduce_ex__(protocol)
        return (_revive, (type(self).__bases__[1],), *state)


def _merge(losses: dict, added: dict) -> dict:
    if twice := set(losses) & set(added):
        raise ConfigError(f'rename the link: the student already logs {sorted(twice)}')
    return losses | added


@functools.cache
def distilled_class(student: type[nn.Module]) -> type[nn.Module]:
    """``Distilled<Student>``: a subclass, so that ``isinstance`` still holds."""
    bases, where = (DistilledMixin, student), dict(__module__=__name__)
    return type(f'Distilled{student.__name__}', bases, where)


def _revive(student: type) -> nn.Module:
    """An empty instance for ``pickle`` and ``copy`` to fill."""
    kind: Any = distilled_class(student)
    return kind.__new__(kind)


@MODELS.register_module()
@checked
def Distill(  # noqa: N802  (it stands where a class does in a config)
    *,
    student: object,
    teacher: dict | str,
    links: dict[str, dict] | str = AUTO,
    inherit: Sequence[str] = (),
    gradient_share_interval: Natural = 50,
    trial_size: tuple[Count, Count] | None = None,
    stop_on_nan: bool = True,
    data_preprocessor: dict | None = None,
) -> nn.Module:
    """Build a student that is distilled while it trains.

    The result is the student - same class (a subclass of it), same attributes, same
    state-dict keys, same predictions - with an additional submodule ``distiller``.

    Args:
        student (dict | nn.Module): The ``model`` of a config of MMDetection or
            MMPretrain. Or such a model, built: it becomes the distilled one itself and
            keeps the weights that it has.
        teacher (dict | str): Keyword arguments of :class:`kd_mm.teacher.Teacher`. Or
            several of them by name, whose taps are then ``'name:path'``. Instead of one
            also 'ema', the average of the student's weights
            (:class:`kd_mm.teachers.Average`), or 'self', the student in the same pass.
        links (dict[str, dict] | str): Keyword arguments of :class:`kd_mm.link.Link` by
            name; or the name of a method, whose links are found from what both networks
            give (:func:`kd_mm.auto.find_links`). Defaults to 'auto'.
        inherit (Sequence[str]): Modules whose first weights come from the teacher
            where names and shapes match, e.g. ``['neck', 'bbox_head']``.
            Defaults to none.
        gradient_share_interval (int): Log every so many steps which share of the
            gradient at the tapped features is the distillation's; 0: never.
            Defaults to 50.
        trial_size (Sequence[int], optional): Height and width in pixels of the images
            that both networks see once before training, to learn widths and to check
            everything. Defaults to None: what the training pipeline ends with, or
            what the networks are made for.
        stop_on_nan (bool): Whether training ends, with the loss's name, when a loss is
            NaN or infinite in five steps in a row, or before a checkpoint with such
            weights would be written. Defaults to True.
        data_preprocessor (dict, optional): The student's, where the config keeps it
            on its top level (MMPretrain). Defaults to None.

    Returns:
        nn.Module: An instance of ``Distilled<StudentClass>``.

    Raises:
        ConfigError: Whatever is wrong with teacher, links, taps or shapes.

    Examples:
        >>> import kd_mm
        >>> def net(depth):
        ...     return dict(
        ...         type='mmpretrain.ImageClassifier',
        ...         data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        ...         backbone=dict(type='kd_mm.ResNetCIFAR', depth=depth),
        ...         neck=dict(type='GlobalAveragePooling'),
        ...         head=dict(type='LinearClsHead', num_classes=10, in_channels=64))
        >>> criterion = dict(type='kd_mm.KDLoss', tau=4.0)
        >>> model = kd_mm.Distill(
        ...     student=net(8),
        ...     teacher=dict(config=net(20), allow_random=True),
        ...     links=dict(logits=dict(
        ...         student='head.fc', teacher='head.fc', criterion=criterion)),
        ...     trial_size=(32, 32))
        >>> type(model).__name__
        'DistilledImageClassifier'
    """
    configs = named(teacher)
    _check_links(links)
    if built := isinstance(student, nn.Module):
        for said in configs.values():
            check_built(student, said['config'])
        model = student
    else:
        model = _build_student(student, data_preprocessor)
    refuse_other_inputs(model, 'student')
    check_inherited(model, configs, inherit)
    # What we create draws its random numbers aside: the student must start, and its
    # data come, exactly as without us.
    with kept_random(get_device()):
        distiller = _build_distiller(
            model, configs, links, gradient_share_interval, stop_on_nan, trial_size
        )
    model.__class__ = distilled_class(type(model))  # type: ignore[arg-type]
    model.distiller = distiller
    model.inherited, model.keeps_weights = tuple(inherit), built
    if built:  # who trains it in a loop of their own may not call `init_weights`
        model.init_weights()
    check_saved(model)
    MMLogger.get_current_instance().info(
        f'kd_mm: teacher {distiller.teachers.describe()}; links '
        + ', '.join(
            f'{name} ({" ".join(link.specs["student"])} <- '
            f'{" ".join(link.specs["teacher"])}, '
            f'{sum(p.numel() for p in link.parameters()) / 1e6:.2f} M parameters)'
            for name, link in distiller.links.items()
        )
    )
    return model


def _build_distiller(
    student: nn.Module,
    configs: dict[str, dict],
    links: dict[str, dict] | str,
    share_interval: int,
    stop_on_nan: bool,
    trial_size: Sequence[int] | None,
) -> Distiller:
    size = (trial_size[0], trial_size[1]) if trial_size else None
    # links that are given are looked at before a large teacher is read
    built = {} if isinstance(links, str) else _built(links)
    teachers = Teachers(configs=configs, student=student)
    for guide in teachers.guides.values():
        refuse_other_inputs(guide.model, 'teacher')
    where = f'links={links!r}: ' if isinstance(links, str) else ''
    if isinstance(links, str):
        links = find_links(student, teachers.only, links, size=size)
        built = _built(links)
    teachers.assign(built)
    users: dict[str, dict[str, str]] = {
        side: {spec: n for n, link in built.items() for spec in link.specs[side]}
        for side in ('student', 'teacher')
    }
    taps = dict(teacher=teachers.connect(student, users['teacher']))
    own = {s: n for s, n in users['teacher'].items() if network_of(s) in teachers.own}
    users['student'] |= own
    taps['student'] = Taps(
        specs=users['student'], model=student, owner='student', links=users['student']
    )
    networks = {name: teachers.network(name, student) for name in teachers.names}
    with ExitStack() as stack:
        outputs = stack.enter_context(outputs_of(student))
        theirs = {n: stack.enter_context(outputs_of(m)) for n, m in networks.items()}
        seen = rehearse(student, teachers, taps['student'], size=size)
    shape = len(seen.samples), channels(student)[0], *seen.size
    inputs = torch.zeros(*shape, device=device_of(student))
    check_loss(student, inputs, seen.samples)
    distiller = Distiller(
        teachers=teachers,
        links=built,
        taps=taps,
        share_interval=share_interval,
        stop_on_nan=stop_on_nan,
    )
    distiller.links_config, distiller.found_by = copy.deepcopy(links), where[:-2]
    held: dict[str, list[Tensor]] = {}  # what links with a share tap
    targets: dict[str, float] = {}
    for name, link in built.items():
        with torch.no_grad(), within(where), within(f'links.{name}.'):
            check_features(link, seen, taps)
            pair = distiller.pair(
                link, seen.student, seen.teacher, seen.samples, seen.size
            )
            tapped = dict(student=pair.student[:], teacher=pair.teacher[:])
            if link.share is not None and link.criterion.weight:
                held[name], targets[name] = tapped['student'], link.share.full
            teacher = networks[link.teachers[0]]
            try:
                with on_device(teacher, 'cpu'):  # stages may run what they borrow of it
                    link.setup(pair, teacher)
            except LayoutError as error:
                more = _instead(link, tapped, outputs, theirs[link.teachers[0]])
                raise ConfigError(f'{error}{more}') from error
            teachers.lend(link)
    ratios(targets, held)  # refuses those that leave the task nothing
    return distiller.to(device_of(student))


def _built(links: dict[str, dict]) -> dict[str, Link]:
    return {name: Link(name=name, **cfg) for name, cfg in links.items()}


def _instead(
    link: Link, tapped: dict[str, list[Tensor]], student: dict, teacher: dict
) -> str:
    """What else could be tapped where one side gives vectors and is asked for more."""
    text = ''
    for side, seen in (('student', student), ('teacher', teacher)):
        if all(layout(feature) != VECTOR for feature in tapped[side]):
            continue
        for spec in link.specs[side]:
            found = with_positions(seen, Tap.parse(spec).path, len(tapped[side][0]))
            text += f'; {side}: {found}' if found else ''
    return text


def _build_student(student: object, data_preprocessor: dict | None) -> nn.Module:
    # building a DETR changes its config
    cfg = copy.deepcopy(_check_student(student))
    if data_preprocessor is not None:
        cfg.setdefault('data_preprocessor', data_preprocessor)
    check_installed(cfg, 'student')
    return MMENGINE_MODELS.build(cfg)


def _check_student(student: object) -> dict:
    if isinstance(student, str | PathLike):
        raise ConfigError(
            f'student {str(student)!r}: student is a dict, the model of a config; '
            f'_base_ = [{str(student)!r}] and student={{{{_base_.model}}}} take it, '
            'with the data and the schedule of that file'
        )
    if not isinstance(student, dict):
        raise ConfigError(f'student: expected a dict, got {student!r}')
    if student.get('type') is None:
        raise ConfigError('student.type is missing: student is the model of a config')
    if is_type(student, 'kd_mm.Distill'):
        raise ConfigError(
            'student.type is kd_mm.Distill: what is distilled already cannot be '
            'distilled again; take its student'
        )
    return student


def _check_links(links: dict[str, dict] | str) -> None:
    if isinstance(links, str):
        check_method(links)
        return
    if not links:
        raise ConfigError('links is empty: nothing would be distilled')
    for name, cfg in links.items():
        if not name.isidentifier() or 'loss' in name:
            raise ConfigError(
                f'links.{name}: a link is named by letters, digits and "_", without '
                '"loss" (MMEngine adds up every log entry with "loss" in its name)'
            )
        if hasattr(nn.ModuleDict, name) or name in ('type', 'training'):
            raise ConfigError(
                f'links.{name}: {name!r} is taken by PyTorch or MMEngine; choose '
                'another name for the link'
            )
        others = [n for n in difflib.get_close_matches(name, links) if n != name]
        try:
            check_options(Link, cfg, f'links.{name}', given=('name',))
        except ConfigError as error:
            if 'is missing' not in str(error) or not others:
                raise
            near = ' or '.join(f'links.{other}' for other in others)
            raise ConfigError(f'{error}; is it meant for {near}?') from error
        check_parts(name, cfg)
