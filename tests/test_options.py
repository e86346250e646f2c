"""Options are declared by annotations: what is refused, and how that reads."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest

from kd_mm.errors import ConfigError
from kd_mm.options import (
    Count,
    NonNegative,
    ProperFraction,
    Rule,
    check_options,
    checked,
)
from kd_mm.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS

Pair = Annotated[Sequence[Count], Rule('of length 2', lambda pair: len(pair) == 2)]


class Part:
    @checked
    def __init__(
        self,
        *,
        count: Count = 1,
        weight: NonNegative = 1.0,
        ratio: ProperFraction | Literal['auto'] = 0.5,
        limit: Count | None = None,
        side: Literal['student', 'teacher'] = 'student',
        share: bool = False,
        name: str = '',
        names: str | Sequence[str] = (),
        levels: Sequence[Count] | dict | None = None,
        size: Pair = (1, 1),
        bounds: tuple[float, float] = (0, 1),
        parts: dict[str, dict] | None = None,
        anything: Any = None,
    ) -> None:
        self.count = count


NUMBERS = ('count', 'weight', 'ratio', 'limit')


@pytest.mark.parametrize('key', NUMBERS)
@pytest.mark.parametrize(
    'value', [float('nan'), float('inf'), -float('inf'), '1', True, [1], {}, -1, 1j]
)
def test_a_number_is_finite_in_range_and_no_other_type(key, value):
    with pytest.raises(ConfigError, match=rf'^Part\.{key}: expected .*, got '):
        Part(**{key: value})


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(count='8'), "Part.count: expected an int >= 1, got '8'"),
        (dict(count=8.0), 'Part.count: expected an int >= 1, got 8.0'),
        (dict(weight=-1), 'Part.weight: expected a finite number >= 0, got -1'),
        (dict(limit=0), 'Part.limit: expected an int >= 1 or None, got 0'),
        (
            dict(ratio='aut'),
            "Part.ratio: expected a finite number in [0, 1) or 'auto', got 'aut'",
        ),
        (dict(side='both'), "Part.side: expected 'student' or 'teacher', got 'both'"),
        (dict(share='yes'), "Part.share: expected True or False, got 'yes'"),
        (dict(share=1), 'Part.share: expected True or False, got 1'),
        (dict(name=3), 'Part.name: expected a text, got 3'),
        (dict(names=['a', 3]), 'Part.names[1]: expected a text, got 3'),
        (dict(levels=[1, 0]), 'Part.levels[1]: expected an int >= 1, got 0'),
        (
            dict(levels='01'),
            'Part.levels: expected a list (an int >= 1, each), a dict or None, '
            "got '01'",
        ),
        (
            dict(size=224),
            'Part.size: expected a list (an int >= 1, each) of length 2, got 224',
        ),
        (
            dict(size=[1, 2, 3]),
            'Part.size: expected a list (an int >= 1, each) of length 2, got [1, 2, 3]',
        ),
        (
            dict(bounds=[0]),
            'Part.bounds: expected (a finite number, a finite number), got [0]',
        ),
        (dict(bounds=[0, '1']), "Part.bounds[1]: expected a finite number, got '1'"),
        (dict(parts=dict(a=1)), 'Part.parts.a: expected a dict, got 1'),
        (dict(cuont=1), 'Part.cuont is unknown; nearest: count'),
    ],
)
def test_a_mistake_reads_in_one_line(options, message):
    with pytest.raises(ConfigError) as error:
        Part(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    'options',
    [
        dict(count=3, weight=2, ratio='auto', limit=None, side='teacher', share=True),
        dict(names='a', levels=(1, 2), size=[3, 4], bounds=[0, 1.0]),
        dict(names=['a', 'b'], levels=dict(student=[0]), parts=dict(a={}), ratio=0),
    ],
)
def test_what_a_config_may_say_passes(options):
    Part(**options)


def test_missing_and_given_keys():
    def build(*, name: str, student: str) -> None:
        """Has no defaults."""

    with pytest.raises(ConfigError, match='links.fpn.student is missing'):
        check_options(build, {}, 'links.fpn', given=('name',))
    with pytest.raises(ConfigError, match='links.fpn.name is unknown'):
        check_options(build, dict(name='a', student='b'), 'links.fpn', given=['name'])
    with pytest.raises(ConfigError, match="links.fpn: expected a dict, got 'neck'"):
        check_options(build, 'neck', 'links.fpn')


def test_a_subclass_is_called_by_its_own_name_and_arguments_have_places():
    class Child(Part):
        pass

    with pytest.raises(ConfigError, match='^Child.count'):
        Child(count=0)

    @checked
    def hook(images: Count = 8) -> int:
        return images

    assert hook(3) == 3
    with pytest.raises(ConfigError, match='^hook.images'):
        hook(0)


def _read(registry) -> dict[str, Any]:
    registry.import_from_location()
    return registry.module_dict


def registered() -> dict[str, type]:
    """Everything that a config can name as ``kd_mm.X`` and that has options."""
    return {
        name: part
        for registry in (DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS)
        for name, part in _read(registry).items()
        if part.__module__.startswith('kd_mm.')
    }


# MMEngine calls it, with dicts that are MMEngine's own
NOT_CALLED_BY_A_CONFIG = {'DistillerOptimWrapperConstructor'}


def test_every_part_that_a_config_names_is_checked():
    parts = registered()
    assert {'Distill', 'DAM', 'MSELoss', 'DrawSoKDHook', 'TensorImages'} <= set(parts)
    for name, part in parts.items():
        build = part.__init__ if isinstance(part, type) else part
        own = 'kd_mm' in getattr(build, '__module__', '')
        if own and name not in NOT_CALLED_BY_A_CONFIG and len(options_of(part)):
            assert hasattr(build, '__wrapped__'), f'{name} is not @checked'


def options_of(part):
    known = inspect.signature(part).parameters
    return {key: p for key, p in known.items() if p.kind != p.VAR_KEYWORD}


NUMERIC = [
    (name, key)
    for name, part in registered().items()
    for key, option in options_of(part).items()
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool)
]


@pytest.mark.parametrize(
    ('name', 'key'), NUMERIC, ids=[f'{name}.{key}' for name, key in NUMERIC]
)
def test_every_number_of_every_part_is_checked(name, key):
    part = registered()[name]
    values = dict(depth=20, form='deltas')
    needed = {
        k: values.get(k, {})
        for k, option in options_of(part).items()
        if option.default is inspect.Parameter.empty
    }
    for value in (float('nan'), float('inf'), '8', True, -1, {}):
        with pytest.raises(ConfigError, match=rf'^{name}\.{key}: expected .*, got '):
            part(**(needed | {key: value}))
