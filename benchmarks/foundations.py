#!/usr/bin/env python
"""Backbones as teachers: are the features a link gets those of their own library?

    python benchmarks/foundations.py               # all, into results/foundations.json
    python benchmarks/foundations.py DINOv2 Swin   # some, shown only

Networks have random weights and few layers; images have 64 x 96 pixels, which is no
network's own size. For each: the teacher as a distilled model has it, on the batch of
a student with other constants, against the network called directly on the images as
its own preprocessor would have made them.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kd_mm.bare import Bare
from kd_mm.taps import Taps
from kd_mm.teacher import Teacher

RESULTS = Path(__file__).resolve().parent / 'results/foundations.json'
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
SIZE = (64, 96)
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def headless(kind: str, **options) -> dict:
    """A backbone as MMPretrain's configs without a head hold it."""
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(NORM, to_rgb=True),
        backbone=dict(type=kind, **options),
        neck=None,
        head=None,
    )


def vit(patch: int = 16, **options) -> dict:
    """A vision transformer that gives a map."""
    said = dict(arch=ARCH, img_size=64, patch_size=patch, out_type='featmap')
    return headless('VisionTransformer', **(said | options))


def timm(name: str, **options) -> dict:
    """A network of timm in MMPretrain's wrapper."""
    return dict(type='mmpretrain.TIMMBackbone', model_name=name, **options)


FEW = dict(depths=[1, 1, 1, 1])
WIDTHS = [8, 16, 32, 64]
# name: (config, tap)
NETWORKS: dict[str, tuple[dict, str]] = {
    'ViT': (vit(), 'backbone'),
    'DINOv2': (vit(14, img_size=70, layer_scale_init_value=1e-5), 'backbone'),
    'CLIP': (vit(pre_norm=True), 'backbone'),
    'MAE': (vit(frozen_stages=1), 'backbone.layers.1'),
    'DeiT, distilled': (
        headless(
            'DistilledVisionTransformer', arch=ARCH, img_size=64, out_type='featmap'
        ),
        'backbone.layers.1',
    ),
    'EVA-02': (
        headless('ViTEVA02', arch=ARCH, img_size=70, out_type='featmap'),
        'backbone',
    ),
    'SAM': (
        headless(
            'ViTSAM',
            arch=dict(ARCH, global_attn_indexes=[1]),
            img_size=64,
            out_channels=16,
            use_rel_pos=False,
        ),
        'backbone',
    ),
    'Swin': (
        headless(
            'SwinTransformer',
            arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1, 2, 4, 8]),
            img_size=64,
            window_size=2,
            out_indices=(1, 2, 3),
        ),
        'backbone',
    ),
    'Swin V2': (
        headless(
            'SwinTransformerV2',
            arch=dict(
                embed_dims=8,
                depths=[1] * 4,
                num_heads=[1, 2, 4, 8],
                extra_norm_every_n_blocks=0,
            ),
            img_size=64,
            window_size=2,
        ),
        'backbone',
    ),
    'ConvNeXt': (
        headless(
            'ConvNeXt',
            arch=dict(channels=WIDTHS, **FEW),
            gap_before_final_norm=False,
        ),
        'backbone',
    ),
    'ConvNeXt V2': (
        headless(
            'ConvNeXt',
            arch=dict(channels=WIDTHS, **FEW),
            gap_before_final_norm=False,
            use_grn=True,
            layer_scale_init_value=0.0,
        ),
        'backbone',
    ),
    'ResNet': (
        headless('ResNet', depth=18, base_channels=8, stem_channels=8),
        'backbone',
    ),
    'MobileNetV2': (headless('MobileNetV2', widen_factor=0.25), 'backbone'),
    'a bare VisionTransformer': (
        dict(
            type='mmpretrain.VisionTransformer',
            arch=ARCH,
            img_size=64,
            out_type='featmap',
        ),
        'backbone.ln1',
    ),
    'a bare detector backbone': (
        dict(type='mmdet.ResNet', depth=18, base_channels=8),
        'backbone',
    ),
    'timm ViT': (
        timm('vit_tiny_patch16_224', img_size=64, dynamic_img_size=True, depth=1),
        'backbone.timm_model.blocks.0',
    ),
    'timm ViT with registers': (
        timm(
            'vit_small_patch14_reg4_dinov2',
            patch_size=16,
            img_size=64,
            dynamic_img_size=True,
            depth=1,
            embed_dim=48,
            num_heads=2,
        ),
        'backbone.timm_model.blocks.0',
    ),
    'timm ConvNeXt': (
        timm('convnext_atto', features_only=True, dims=WIDTHS, **FEW),
        'backbone',
    ),
    'timm ResNet': (timm('resnet10t'), 'backbone'),
    'torchvision ResNet': (dict(type='torchvision.models.resnet18'), 'backbone.layer4'),
    'torchvision Swin': (
        dict(
            type='torchvision.models.SwinTransformer',
            patch_size=[4, 4],
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=[2, 2],
        ),
        'backbone.permute',
    ),
}


class Images(nn.Module):
    """A student that is only its preprocessor: pixels of 0 to 1, in BGR."""

    def __init__(self) -> None:
        super().__init__()
        cfg = dict(type='mmengine.ImgDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3)
        self.data_preprocessor = MODELS.build(cfg)


def compare(name: str) -> dict:
    """Largest difference of a teacher's features from the network's own."""
    config, tap = NETWORKS[name]
    bare = config['type'] != 'mmpretrain.ImageClassifier'
    torch.manual_seed(0)
    said = dict(NORM, bgr_to_rgb=True) if bare else None
    with DefaultScope.overwrite_default_scope('mmdet'):  # that of a detector's run
        teacher = Teacher(
            config=copy.deepcopy(config), allow_random=True, data_preprocessor=said
        )
    images = torch.randint(0, 256, (2, 3, *SIZE)).float()
    network = teacher.model.backbone
    wanted = (images.flip(1) - _column('mean')) / _column('std')
    module = teacher.model.get_submodule(tap)
    seen: list = []
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        network(wanted)
    hook.remove()

    taps = Taps(specs=[tap], model=teacher.model, owner='teacher')
    teacher.connect(Images(), taps)
    taps.learn(teacher.rehearse(images / 255, []).recording)
    got = teacher(images / 255, [], [tap]).features(taps.taps[tap])
    own = _flat(seen[0])
    errors = [float((a - b).abs().max()) for a, b in zip(own, got, strict=True)]
    scale = max(float(a.abs().max()) for a in own)
    return dict(
        network=name,
        built_as='network'
        if isinstance(teacher.model, Bare)
        else 'headless classifier',
        tap=tap,
        shape=' '.join(str(tuple(f.shape)) for f in got),
        largest_difference=f'{max(errors) / scale:.0e}',
    )


def _column(key: str) -> Tensor:
    return torch.tensor(NORM[key])[:, None, None]


def _flat(output) -> list[Tensor]:
    return list(output) if isinstance(output, (tuple, list)) else [output]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NETWORK')
    names = parser.parse_args().names
    if unknown := set(names) - set(NETWORKS):
        raise SystemExit(f'error: there is no {", ".join(sorted(unknown))}')
    rows = [compare(name) for name in names or NETWORKS]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    if not names:
        lines = ',\n '.join(json.dumps(row) for row in rows)
        RESULTS.write_text(f'[{lines}]\n')


if __name__ == '__main__':
    main()
