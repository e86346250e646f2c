"""The student's first weights, where they are the teacher's."""

from collections.abc import Mapping, Sequence

from mmengine.logging import MMLogger
from torch import nn

from .errors import ConfigError, nearest
from .teachers import AVERAGE, OWN


def check_inherited(
    student: nn.Module, teachers: Mapping[str, dict], parts: Sequence[str]
) -> None:
    """Raise unless there are such modules, and a teacher that has other weights.

    Args:
        student (nn.Module): The network.
        teachers (Mapping[str, dict]): What the config says of every teacher.
        parts (Sequence[str]): Dotted paths of modules.

    Raises:
        ConfigError: Naming the part, or the teachers.
    """
    names = dict(student.named_modules())
    for part in parts:
        if part not in names:
            raise ConfigError(
                f'inherit: {type(student).__name__} has no module {part!r}; '
                f'{nearest(part, filter(None, names))}'
            )
    configs = [said['config'] for said in teachers.values()]
    if not parts or len(configs) == 1 and configs[0] not in (AVERAGE, OWN):
        return
    found = ', '.join(name or str(said['config']) for name, said in teachers.items())
    raise ConfigError(
        f'inherit={list(parts)}: the weights come from one teacher with weights of its '
        f'own, and here teach: {found}'
    )


def inherit(student: nn.Module, teacher: nn.Module, parts: Sequence[str]) -> None:
    """Copy weights from the teacher where names and shapes match ("inheriting").

    Source: DPK (arXiv 2206.06067) and FGD's released code start the student's neck and
    head from the teacher's.

    Args:
        student (nn.Module): Receives the weights.
        teacher (nn.Module): Gives them.
        parts (Sequence[str]): Dotted paths of modules, e.g. ``['neck', 'bbox_head']``.

    Raises:
        ConfigError: If nothing under a part matches.
    """
    theirs = teacher.state_dict()
    own = student.state_dict()
    for part in parts:
        names = [n for n in own if n.startswith(f'{part}.')]
        fitting = [n for n in names if n in theirs and theirs[n].shape == own[n].shape]
        if not fitting:
            raise ConfigError(
                f'inherit: nothing under {part!r} has the same name and shape in '
                f'{type(student).__name__} and in the teacher {type(teacher).__name__}'
            )
        for name in fitting:
            own[name].copy_(theirs[name])
        left = sorted(set(names) - set(fitting))
        MMLogger.get_current_instance().info(
            f'inherit: {len(fitting)} of {len(names)} tensors of {part!r} come from '
            f'the teacher' + (f'; not {", ".join(left[:5])}' if left else '')
        )
