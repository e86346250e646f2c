"""Weights that a student's ``init_cfg`` names: what does not fit is said."""

import logging

import pytest
import torch
import toys
from helpers import build, distill_cfg
from mmengine.config import Config
from mmengine.logging import MMLogger

CONFIG = 'configs/kd/coco_s320/yolox_nano_retinanet_mbv2_fitnet_coco_s320.py'


@pytest.fixture
def said():
    """Warnings of a test, one text each."""
    logger, handler, found = MMLogger.get_current_instance(), logging.Handler(), []
    handler.emit = lambda record: found.append(record.getMessage())
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def student_from(path, **init) -> dict:
    student = toys.classifier()
    init = dict(type='Pretrained', checkpoint=str(path), **init)
    student.backbone.init_cfg = init
    return distill_cfg(student, toys.classifier(base=16), 'kd')


def ours(said) -> list[str]:
    return [text for text in said if text.startswith('student.')]


def test_a_backbone_of_other_names_is_said(tmp_path, said):
    """As MMPretrain's MobileNetV2 in MMDetection's: nothing of it fits."""
    state = build(toys.classifier()).backbone.state_dict()
    renamed = {f'backbone.stem.{key}': value for key, value in state.items()}
    torch.save(dict(state_dict=renamed), tmp_path / 'other.pth')
    model = build(student_from(tmp_path / 'other.pth', prefix='backbone.'))
    model.init_weights()
    (text,) = ours(said)
    assert 'student.backbone.init_cfg: of ' in text and ' 0 are in ' in text
    assert 'other.pth' in text and 'stem.' in text


def test_what_fits_but_for_a_few_is_nothing_to_say(tmp_path, said):
    state = build(toys.classifier()).state_dict()
    state.pop('backbone.bn1.bias')
    torch.save(dict(state_dict=state), tmp_path / 'whole.pth')
    model = build(student_from(tmp_path / 'whole.pth', prefix='backbone.'))
    model.init_weights()
    assert not ours(said)
    for key, value in state.items():
        if key.startswith('backbone.'):
            assert torch.equal(model.state_dict()[key], value), key


def test_a_part_that_comes_with_the_whole_is_nothing_to_say(tmp_path, said):
    """A model's file over a backbone's own: the usual base config with one on top."""
    whole = build(toys.classifier())
    torch.save(whole.backbone.state_dict(), tmp_path / 'part.pth')
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    cfg = student_from(tmp_path / 'part.pth')
    cfg['student'].init_cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'whole.pth')
    )
    build(cfg).init_weights()
    assert not ours(said)


def test_files_that_complete_each_other_are_nothing_to_say(tmp_path, said):
    state = build(toys.classifier()).backbone.state_dict()
    names = sorted(state)
    cfg = student_from(tmp_path / 'even.pth')
    cfg['student'].backbone.init_cfg = []
    for title, chosen in dict(even=names[::2], odd=names[1::2]).items():
        path = tmp_path / f'{title}.pth'
        torch.save({name: state[name] for name in chosen}, path)
        init = dict(type='Pretrained', checkpoint=str(path))
        cfg['student'].backbone.init_cfg.append(init)
    build(cfg).init_weights()
    assert not ours(said)


def test_layers_that_no_file_has_by_design_are_nothing_to_say(tmp_path, said):
    """Attention in a backbone; the file has a classifier that nobody asks for."""
    plain = build(toys.classifier()).backbone.state_dict()
    kept = {k: v for k, v in plain.items() if 'downsample' not in k}
    assert len(kept) < 0.9 * len(plain)
    torch.save(kept | {'fc.weight': torch.ones(3)}, tmp_path / 'most.pth')
    build(student_from(tmp_path / 'most.pth')).init_weights()
    assert not ours(said)


def test_a_file_of_fewer_blocks_is_said(tmp_path, said):
    """ResNet-50's for a ResNet-101: all of it fits, and half stays empty."""
    plain = build(toys.classifier()).backbone.state_dict()
    kept = {k: v for k, v in plain.items() if not k.startswith('layer4')}
    torch.save(kept, tmp_path / 'smaller.pth')
    build(student_from(tmp_path / 'smaller.pth')).init_weights()
    (text,) = ours(said)
    assert 'layer4.' in text


def test_other_shapes_are_said(tmp_path, said):
    wide = build(toys.classifier(base=16)).backbone.state_dict()
    torch.save(wide, tmp_path / 'wide.pth')
    build(student_from(tmp_path / 'wide.pth')).init_weights()
    (text,) = ours(said)
    assert ' 0 are in ' in text


def test_the_shipped_mobilenet_starts_from_its_imagenet_weights(
    data_folder,
):
    """MMDetection's backbone of that name would take nothing of MMPretrain's file."""
    student = Config.fromfile(CONFIG).model.student
    path = data_folder / 'weights/mobilenet_v2_imagenet_mmpretrain.pth'
    student.backbone.init_cfg.checkpoint = str(path)
    model = build(student)
    model.init_weights()
    state = torch.load(path, weights_only=True)
    state = state.get('state_dict', state)
    own = model.backbone.state_dict()
    assert own and all(torch.equal(v, state[f'backbone.{k}']) for k, v in own.items())
