"""Maps, tokens and vectors: everything is right on them, or refuses them at once."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from helpers import trial_pair
from torch import nn

from kd_mm.criteria import Criterion
from kd_mm.errors import ConfigError
from kd_mm.link import Link
from kd_mm.pair import (
    LAYOUTS,
    MAP,
    TOKENS,
    VECTOR,
    LayoutError,
    as_before,
    as_map,
    channels,
    layout,
    positions,
)
from kd_mm.registry import MODELS
from kd_mm.stages import Stage
from kd_mm.stages.kcd.fit import observe
from kd_mm.stages.kcd.moments import LevelStatistics

N, C, SIDE = 4, 8, 4
FORMS = {MAP: (N, C, SIDE, SIDE), TOKENS: (N, SIDE * SIDE, C), VECTOR: (N, C)}
SMALL = {
    'CRDLoss': dict(images=32, negatives=8, dim=4),
    'DPK': dict(encoder=(8, 1, 2), decoder=(8, 1, 2)),
    'DAM': dict(hidden=4),
    'ReviewKD': dict(mid=4),
    'ChannelAlign': dict(transform='identity'),
    'CrossKD': dict(rest=['layer']),
    'BoxLoss': dict(form='deltas'),
    'HeadLoss': dict(boxes=dict(type='kd_mm.LDLoss')),
}
TEACHER = nn.ModuleDict(dict(layer=nn.Tanh()))  # what a stage may borrow
VARIANTS = [
    ('kd_mm.KDLoss', dict(sigmoid=True)),
    ('kd_mm.ConvAdapter', dict(kernel_size=3)),
    ('kd_mm.ConvAdapter', dict(layers=2, norm_cfg=dict(type='BN'))),
    ('kd_mm.ConvAdapter', dict(layers=2, norm_cfg=dict(type='LN'))),
]


def parts(kind: type) -> list[tuple[str, dict]]:
    """Every registered stage or criterion of the package, and what changes them."""
    MODELS.import_from_location()
    plain = [
        (f'kd_mm.{name}', {})
        for name, part in MODELS.module_dict.items()
        if isinstance(part, type)
        and issubclass(part, kind)
        and part.__module__.startswith('kd_mm.')
    ]
    found = dict(MODELS.module_dict)
    return plain + [v for v in VARIANTS if issubclass(found[v[0].split('.')[1]], kind)]


def label(part: tuple[str, dict]) -> str:
    name, options = part
    said = ', '.join(f'{key}={value}' for key, value in options.items())
    return f'{name}({said})' if said else name


def config(part: tuple[str, dict]) -> dict:
    name, options = part
    return dict(type=name, **SMALL.get(name.split('.')[1], {}), **options)


def link_of(part: tuple[str, dict], kind: type) -> Link:
    cfg = dict(type='kd_mm.MSELoss')
    stages = [config(part)] if kind is Stage else []
    criterion = config(part) if kind is Criterion else cfg
    return Link(name='x', student='s', teacher='t', stages=stages, criterion=criterion)


def pair_of(part: tuple[str, dict], student, teacher):
    """One level; a head's two branches where both are needed."""
    pair = trial_pair(student, teacher)
    if part[0] == 'kd_mm.HeadLoss':
        pair = replace(pair, student=[student] * 2, teacher=[teacher] * 2, weight=[])
    return pair


def features(form: str, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        FORMS[form], generator=torch.Generator().manual_seed(seed), requires_grad=True
    )


def in_form(feature: torch.Tensor, form: str) -> torch.Tensor:
    """The positions of a map as tokens."""
    return feature if form == MAP else feature.flatten(2).transpose(1, 2)


CASES = [
    pytest.param(kind, part, form, id=f'{label(part)}-{form.split()[0]}')
    for kind in (Criterion, Stage)
    for part in parts(kind)
    for form in LAYOUTS
]


@pytest.mark.parametrize(('kind', 'part', 'form'), CASES)
def test_is_finite_and_teaches_or_refuses_before_training(kind, part, form):
    torch.manual_seed(0)
    link = link_of(part, kind)
    own = link.stages[0] if kind is Stage else link.criterion
    student, teacher = features(form), features(form, 1).detach()
    pair = pair_of(part, student, teacher)
    if part[0] in ('kd_mm.MatchQueries', 'kd_mm.TeacherRoIs'):
        # what they take is no feature of a form: a decoder, a two-stage teacher
        with pytest.raises(ConfigError, match='DETR|needs a teacher|takes maps'):
            link.setup(pair)
        return
    if form not in own.layouts:
        with pytest.raises(LayoutError, match='TokensToMap|tap ') as refused:
            link.setup(pair, TEACHER)
        assert form in str(refused.value) and 'level 0' in str(refused.value)
        return
    if part[0] == 'kd_mm.TokensToMap' and form == MAP:
        with pytest.raises(ConfigError, match='nothing to do'):
            link.setup(pair, TEACHER)
        return
    with torch.no_grad():
        link.setup(pair_of(part, student.detach(), teacher), TEACHER)
    if part[0] == 'kd_mm.ChannelAlign':
        link.stages[0].fit([])
    for sample, index in zip(pair.samples, range(N), strict=True):
        sample.set_metainfo(dict(sample_idx=index))
    loss = sum(v for k, v in link(pair, 1.0).items() if 'loss' in k)
    loss.backward()
    assert loss.isfinite() and float(student.grad.abs().sum()) > 0


@pytest.mark.parametrize('part', parts(Criterion), ids=label)
def test_tokens_of_a_map_have_the_loss_of_the_map(part):
    criterion = link_of(part, Criterion).criterion
    if not {MAP, TOKENS} <= set(criterion.layouts):
        pytest.skip('not defined on both')
    maps = [features(MAP, seed) for seed in (0, 1)]
    losses = [
        criterion(pair_of(part, *(in_form(m, form) for m in maps)))
        for form in (MAP, TOKENS)
    ]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, maps[0])[0] for loss in losses]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('part', parts(Criterion), ids=label)
def test_a_vector_is_one_token_and_a_map_of_one_cell(part):
    criterion = link_of(part, Criterion).criterion
    if VECTOR not in criterion.layouts or part[0] in ('kd_mm.CRDLoss', 'kd_mm.DKDLoss'):
        pytest.skip('not defined on it, or on nothing else')
    vectors = [features(VECTOR, seed) for seed in (0, 1)]
    expected = criterion(pair_of(part, *vectors))
    if TOKENS in criterion.layouts:
        torch.testing.assert_close(
            criterion(pair_of(part, *(v[:, None] for v in vectors))), expected
        )
    if MAP in criterion.layouts:
        torch.testing.assert_close(
            criterion(pair_of(part, *(v[..., None, None] for v in vectors))), expected
        )


@pytest.mark.parametrize(
    'part', [p for p in parts(Stage) if p[0] == 'kd_mm.ConvAdapter'], ids=label
)
def test_an_adapter_treats_tokens_as_it_treats_the_positions_of_a_map(part):
    maps = features(MAP).detach(), torch.randn(N, 6, SIDE, SIDE)
    adapter = link_of(part, Stage).stages[0]
    adapter.setup(trial_pair(*maps))
    adapted = adapter(trial_pair(*maps)).student[0]
    assert channels(adapted) == 6
    if TOKENS not in adapter.layouts:
        return
    tokens = adapter(trial_pair(*(in_form(m, TOKENS) for m in maps))).student[0]
    torch.testing.assert_close(tokens, in_form(adapted, TOKENS))


def test_layer_norm_of_an_adapter_is_over_channels_also_where_maps_are_as_wide():
    """``nn.LayerNorm`` of the width takes the last axis, columns, without a word."""
    square = torch.randn(N, C, 6, 6)
    link = link_of(
        ('kd_mm.ConvAdapter', dict(layers=2, norm_cfg=dict(type='LN'))), Stage
    )
    adapter = link.stages[0]
    adapter.setup(trial_pair(square, torch.randn(N, 6, 6, 6)))
    norm = adapter.adapters[0][0].norm
    out = norm(torch.randn(N, 6, 6, 6) * 3 + 1)
    torch.testing.assert_close(out.mean(1), torch.zeros(N, 6, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['ChannelDrop', 'ChannelShuffle'])
def test_operators_on_channels_do_the_same_to_tokens(name):
    from kd_mm.stages.sokd.operators import OPERATORS, Chance

    feature, chance = features(MAP).detach(), Chance((0.0, 0.0), 3)
    out = [
        OPERATORS[name](in_form(feature, form), torch.tensor(0.7), chance, 1.0)
        for form in (MAP, TOKENS)
    ]
    torch.testing.assert_close(in_form(out[0], TOKENS), out[1])
    assert not torch.equal(in_form(feature, TOKENS), out[1])


@pytest.mark.parametrize('kind', ['gap', 'spatial', 'class'])
def test_channels_of_tokens_are_matched_as_those_of_their_map(kind):
    maps = [features(MAP, seed).detach() for seed in (0, 1)]
    found = []
    for form in (MAP, TOKENS):
        statistics = LevelStatistics([kind])
        pair = trial_pair(*(in_form(m, form) for m in maps))
        for index, sample in enumerate(pair.samples):
            sample.set_gt_label(index)
            del sample.gt_instances
        observe([statistics], pair)
        found.append(statistics.covariance(kind).st)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('form', LAYOUTS)
def test_as_map_and_back(form):
    feature = features(form)
    there = as_map(feature)
    assert there.shape[:2] == (N, channels(feature)) and there.ndim == 4
    assert torch.equal(as_before(there, feature), feature)
    assert layout(feature) == form and len(positions(feature)) == feature.ndim - 2


@pytest.mark.parametrize('shape', [(4,), (2, 3, 4, 5, 6)])
def test_another_number_of_axes_is_refused(shape):
    feature = torch.randn(shape)
    link = link_of(('kd_mm.MSELoss', {}), Criterion)
    with pytest.raises(ConfigError, match=re.escape(str(shape))):
        link.setup(trial_pair(feature, feature))


@pytest.mark.parametrize(
    ('student', 'teacher', 'said'),
    [
        ((N, 5, C), (N, 5, 6), 'ConvAdapter'),
        ((N, 6, C), (N, 5, C), 'TokensToMap'),
        ((N, C, 4, 4), (N, 17, C), 'TokensToMap'),
        ((N, C), (N, C, 4, 4), 'the student is pooled'),
        ((N, 5, C), (N, C), 'the teacher is pooled'),
        ((N, C, 4, 4), (N, C, 2, 2), 'Resize'),
    ],
)
def test_what_brings_two_features_together(student, teacher, said):
    link = link_of(('kd_mm.MSELoss', {}), Criterion)
    with pytest.raises(ConfigError, match=said):
        link.setup(trial_pair(torch.randn(student), torch.randn(teacher)))


# ---- the tables of the documentation ----------------------------------------------


def rows(kind: type) -> list[str]:
    """Lines of the table of layouts, as docs/options.md has them."""
    lines = []
    for part in sorted(parts(kind), key=label):
        if 'norm_cfg' in part[1]:
            continue
        link = link_of(part, kind)
        own = link.stages[0] if kind is Stage else link.criterion
        cells = ['yes' if form in own.layouts else '-' for form in LAYOUTS]
        lines.append(f'| `{label(part)}` | {" | ".join(cells)} |')
    return lines


@pytest.mark.parametrize('kind', [Stage, Criterion])
def test_the_options_say_what_each_takes(kind):
    said = (ROOT / 'docs/options.md').read_text()
    missing = [line for line in rows(kind) if line not in said]
    assert not missing, '\n'.join(rows(kind))


def test_the_methods_say_what_each_host_takes():
    text = (ROOT / 'docs/methods.md').read_text()
    found = dict(MODELS.module_dict)
    checked = 0
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        names = re.findall(r'`(\w+)`', cells[2]) if len(cells) == 5 else []
        if not line.startswith('| ') or not any(name in found for name in names):
            continue
        takes = set(LAYOUTS)
        for name in names:
            takes &= set(link_layouts(found[name]))
        said = ', '.join(form.split()[0] for form in LAYOUTS if form in takes)
        assert cells[4] == said, line
        checked += 1
    assert checked >= 13


def link_layouts(part: type) -> tuple[str, ...]:
    name = f'kd_mm.{part.__name__}'
    kind = Stage if issubclass(part, Stage) else Criterion
    link = link_of((name, {}), kind)
    return (link.stages[0] if kind is Stage else link.criterion).layouts
