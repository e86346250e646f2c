"""Transformers of both toolboxes, toy-sized: what their tokens are, and what to do."""

import itertools
import re

import pytest
import query_toys
import torch
import torch.nn.functional as F
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    losses_of,
    train_steps,
    trial_pair,
)
from mmengine.config import ConfigDict

from kd_mm.analysis.teachers import collect
from kd_mm.errors import ConfigError
from kd_mm.stages import TokensToMap
from kd_mm.stages.tokens_to_map import EXTRA, learn_grid, size_of

MAPS = dict(type='kd_mm.TokensToMap')
ADAPT = dict(type='kd_mm.ConvAdapter')
MSE = dict(type='kd_mm.MSELoss')
LAST = 'backbone.layers.1'  # of the transformers below


def transformer(kind: str, head: str, width: int, **kwargs) -> ConfigDict:
    sizes = dict(num_layers=2, num_heads=2, feedforward_channels=2 * width)
    model = toys.classifier()
    model.neck = None
    model.backbone = ConfigDict(
        type=kind,
        arch=dict(embed_dims=width, **sizes),
        img_size=64,
        patch_size=16,
        **kwargs,
    )
    model.head = ConfigDict(type=head, num_classes=4, in_channels=width)
    return model


def vit(width: int = 24, **kwargs) -> ConfigDict:
    return transformer('VisionTransformer', 'VisionTransformerClsHead', width, **kwargs)


def deit(width: int = 16) -> ConfigDict:
    return transformer('DistilledVisionTransformer', 'DeiTClsHead', width)


def swin(width: int = 8) -> ConfigDict:
    model = toys.classifier()
    model.backbone = ConfigDict(
        type='SwinTransformer',
        arch=dict(embed_dims=width, depths=[1] * 4, num_heads=[1, 2, 4, 8]),
        img_size=64,
        window_size=2,
    )
    model.head.in_channels = 8 * width
    return model


def convnext(width: int = 8) -> ConfigDict:
    model = toys.classifier()
    model.neck = None
    widths = [width * 2**i for i in range(4)]
    model.backbone = ConfigDict(
        type='ConvNeXt', arch=dict(depths=[1] * 4, channels=widths)
    )
    model.head.in_channels = 8 * width
    return model


def resnet() -> ConfigDict:
    """One level of stride 16."""
    model = toys.classifier()
    model.backbone.out_indices = (2,)
    model.head.in_channels = 32
    return model


def link(student, teacher, *stages, criterion=MSE):
    return dict(
        x=dict(
            student=student, teacher=teacher, stages=list(stages), criterion=criterion
        )
    )


def teaches(model, batch) -> None:
    logged = [log['loss_kd_x'] for log in train_steps(model, batch, 4, lr=0.02)]
    assert 0 < logged[-1] < logged[0]
    model.zero_grad()
    losses = losses_of(model, batch)
    sum(losses[name] for name in losses if 'loss_kd' in name).backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


@pytest.mark.parametrize(
    ('student', 'taps', 'teacher', 'dropped'),
    [
        (resnet, ('backbone', LAST), vit, {'teacher': 1}),
        (vit, (LAST, 'backbone'), resnet, {'student': 1}),
        (deit, (LAST, LAST), vit, {'student': 2, 'teacher': 1}),
        (vit, (LAST, LAST), deit, {'student': 1, 'teacher': 2}),
        (resnet, ('backbone', 'backbone.stages.2[0]'), swin, {'teacher': 0}),
        (swin, ('backbone.stages.2[0]', 'backbone'), resnet, {'student': 0}),
    ],
    ids=lambda v: getattr(v, '__name__', ''),
)
def test_tokens_teach_maps_and_learn_from_them(student, taps, teacher, dropped):
    links = link(*taps, MAPS, ADAPT)
    model = build(distill_cfg(student(), teacher(), links))
    grids = model.distiller.links['x'].stages[0].grids
    assert {side: grid.extra for (side, _), grid in grids.items()} == dropped
    assert {grid.strides for grid in grids.values()} == {(16,)}
    teaches(model, classification_batch(4, size=64))  # the trial's were 128


@pytest.mark.parametrize('criterion', ['MSELoss', 'PKDLoss', 'CWDLoss', 'ATLoss'])
def test_tokens_are_compared_with_tokens(criterion):
    norm = dict(ADAPT, layers=2, norm_cfg=dict(type='LN'))
    links = link(LAST, LAST, norm, criterion=dict(type=f'kd_mm.{criterion}'))
    model = build(distill_cfg(vit(16), vit(24), links))
    assert model.distiller.links['x'].stages[0].adapters[0][-1].out_channels == 24
    teaches(model, classification_batch(4, size=64))


def outputs(module, backbone, image):
    """What a module and the whole backbone give for an image."""
    seen = []
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        whole = backbone(image)
    hook.remove()
    return seen[0], whole[-1]


def test_a_map_of_a_vits_tokens_is_what_it_gives_itself():
    links = link('backbone', 'backbone.ln1', MAPS, ADAPT)
    model = build(distill_cfg(resnet(), vit(), links))
    backbone = model.distiller.teacher.model.backbone
    backbone.out_type = 'featmap'
    tokens, expected = outputs(backbone.ln1, backbone, torch.randn(2, 3, 64, 96))
    pair = trial_pair(torch.randn(2, 32, 4, 6), tokens, (64, 96))
    made = model.distiller.links['x'].stages[0](pair).teacher[0]
    assert torch.equal(made, expected)


def test_a_map_of_swins_tokens_is_what_it_gives_itself():
    links = link('backbone', 'backbone.stages.3[0]', MAPS, dict(type='kd_mm.Resize'))
    links['x']['stages'].append(ADAPT)
    model = build(distill_cfg(resnet(), swin(), links))
    backbone = model.distiller.teacher.model.backbone
    image = torch.randn(2, 3, 64, 96)
    (tokens, _), expected = outputs(backbone.stages[3], backbone, image)
    pair = trial_pair(torch.randn(2, 32, 4, 6), tokens, (64, 96))
    made = model.distiller.links['x'].stages[0](pair).teacher[0]
    made = F.layer_norm(made.movedim(1, -1), (64,)).movedim(-1, 1)
    torch.testing.assert_close(made, expected)


def test_memory_of_a_detr_is_n_l_c_and_its_map_lies_as_the_neck():
    """Seen on what goes into the encoder, whose order is known from the neck."""
    student, teacher = query_toys.detr(dims=16), query_toys.detr(dims=32)
    links = dict(
        **link('encoder', 'encoder', MAPS, ADAPT),
        into=dict(
            student='neck', teacher='encoder[0]@input', stages=[MAPS, ADAPT],
            criterion=MSE,
        ),
    )  # fmt: skip
    model = build(distill_cfg(student, teacher, links))
    batch = detection_batch(2, sizes=[(3, 96, 160), (3, 90, 97)])
    teaches(model, batch)
    data = model.data_preprocessor(batch, True)
    image, samples = data['inputs'], data['data_samples']
    taps = model.distiller.taps['teacher']
    guide = model.distiller.teacher
    seen = guide(image, samples, ['encoder[0]@input'])
    tokens = seen.features(taps.taps['encoder[0]@input'])[0]
    (neck,) = guide.model.neck(guide.model.backbone(guide.bridge(image, samples)))
    pair = trial_pair(neck, tokens, tuple(image.shape[2:]))
    made = model.distiller.links['into'].stages[0](pair).teacher[0]
    torch.testing.assert_close(made, neck)
    assert made.shape[2] != made.shape[3]


def test_a_probe_of_teachers_sees_tokens_as_maps():
    model = build(distill_cfg(resnet(), vit(), link('backbone', LAST, MAPS, ADAPT)))
    (((student, teacher),),) = collect(model, [classification_batch(4, size=64)])
    assert student.shape == (4, 32, 4, 4) and teacher.shape == (4, 24, 4, 4)


def test_a_teacher_that_pads_gives_the_map_over_the_students_image():
    teacher = query_toys.detr(dims=32)
    teacher.data_preprocessor.pad_size_divisor = 64
    links = dict(
        **link('encoder', 'encoder', MAPS, ADAPT),
        neck=dict(student='neck', teacher='neck', stages=[ADAPT], criterion=MSE),
    )
    model = build(distill_cfg(query_toys.detr(dims=16), teacher, links))
    batch = detection_batch(2, sizes=[(3, 96, 160), (3, 90, 97)])
    teaches(model, batch)  # 96 x 160 of the student, 128 x 192 of the teacher


# ---- what is refused, and what is said ---------------------------------------------

KD = dict(type='kd_mm.KDLoss')


@pytest.mark.parametrize(
    ('student', 'teacher', 'links', 'said'),
    [
        (resnet, swin, link('backbone', 'backbone.stages.2'), "'backbone.stages.2[0]'"),
        (deit, deit, link(LAST, LAST, criterion=KD), 'head.fc'),
        (resnet, vit, link('backbone', LAST, ADAPT), 'TokensToMap'),
        (deit, vit, link(LAST, LAST, ADAPT), 'TokensToMap'),
        (
            resnet,
            vit,
            link('backbone', LAST, dict(type='kd_mm.Resize')),
            'TokensToMap',
        ),
        (vit, vit, link(LAST, LAST, dict(ADAPT, kernel_size=3)), 'take 1'),
        (resnet, convnext, link('backbone', 'backbone', ADAPT), 'backbone.stages.3'),
        (resnet, vit, link('backbone', 'backbone', MAPS), 'backbone.ln1'),
        (resnet, resnet, link('neck', 'neck', dict(type='kd_mm.DAM')), "'backbone'"),
        (resnet, resnet, link('backbone', 'backbone', MAPS), 'nothing to do'),
        (vit, vit, link(LAST, LAST, dict(MAPS, drop=3)), 'no grid'),
        (vit, vit, link(LAST, LAST, dict(MAPS, grid=(8, 9))), '65 tokens'),
    ],
)
def test_refused_with_what_helps(student, teacher, links, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        build(distill_cfg(student(), teacher(), links))
    assert str(refused.value).startswith(('links.x', 'teacher tap'))


def test_what_a_refusal_names_can_be_tapped():
    with pytest.raises(ConfigError) as refused:
        build(distill_cfg(resnet(), convnext(), link('backbone', 'backbone', ADAPT)))
    named = re.search(r"teacher: '([\w.]+)' gives", str(refused.value))[1]
    assert named == 'backbone.stages.3'
    links = link('backbone', named, dict(type='kd_mm.Resize'), ADAPT)
    teaches(build(distill_cfg(resnet(), convnext(), links)), classification_batch())


def test_logits_of_a_deit_are_compared():
    links = link('head.layers.head', 'head.layers.head', criterion=KD)
    model = build(distill_cfg(deit(16), vit(24), links))
    # a head that begins at zero says nothing
    torch.nn.init.normal_(model.distiller.teacher.model.head.layers.head.weight)
    teaches(model, classification_batch(4, size=64))


# ---- grids -------------------------------------------------------------------------


def tokens_on(image, stride, extra, padded):
    rest = stride - 1 if padded else 0
    height, width = ((pixels + rest) // stride for pixels in image)
    return height * width + extra, (height, width)


@pytest.mark.parametrize('padded', [True, False])
@pytest.mark.parametrize('stride', [4, 7, 8, 14, 16, 32])
def test_grids_are_found_on_images_of_any_size(stride, padded):
    trials = [(224, 224), (256, 256), (256, 320), (250, 333), (211, 331)]
    images = [(224, 224), (800, 1333), (480, 640), (97, 130), (608, 1088)]
    for trial, extra in itertools.product(trials, range(6)):
        count, _ = tokens_on(trial, stride, extra, padded)
        grid = learn_grid(count, trial, range(EXTRA + 1))
        assert grid.extra == extra and stride in grid.strides
        for image in images:
            count, size = tokens_on(image, stride, 0, padded)
            found = size_of(count, image, grid.strides)
            assert found == (*size, stride), (trial, image)


def test_a_grid_given_is_taken():
    stage = TokensToMap(grid=(2, 6))
    tokens = torch.randn(2, 1 + 12, 5)
    pair = trial_pair(tokens, torch.randn(2, 5, 4, 4))
    stage.setup(pair)
    made = stage(pair).student[0]
    assert made.shape == (2, 5, 2, 6)
    assert torch.equal(made[:, :, 1, 2], tokens[:, 1 + 8])


@pytest.mark.parametrize('divisor', [16, 32, 64, 128])
@pytest.mark.parametrize('stride', [8, 16, 32])
def test_tokens_of_a_padded_teacher_are_cut_to_what_the_student_saw(stride, divisor):
    if divisor % stride:
        return
    stage = TokensToMap(side='teacher')
    for image in [(211, 331), (97, 130), (640, 801)]:
        padded = [-(-pixels // divisor) * divisor for pixels in image]
        cells = torch.randn(2, 5, padded[0] // stride, padded[1] // stride)
        tokens = F.pad(cells.flatten(2).transpose(1, 2), (0, 0, 1, 0))
        pair = trial_pair(torch.randn(2, 5, 4, 4), tokens, image)
        pair.padded_size = tuple(padded)
        if not stage.grids:
            stage.setup(pair)
        assert stage.grids['teacher', 0].extra == 1
        height, width = (-(-pixels // stride) for pixels in image)
        assert torch.equal(stage(pair).teacher[0], cells[..., :height, :width])


def test_a_batch_that_fits_no_grid_stops():
    stage = TokensToMap()
    stage.setup(trial_pair(torch.randn(2, 65, 5), torch.randn(2, 65, 5), (128, 128)))
    with pytest.raises(ConfigError, match='16 pixels'):
        stage(trial_pair(torch.randn(2, 60, 5), torch.randn(2, 60, 5), (128, 128)))
