"""A trained detector on real photographs: the teacher that users would have."""

import os

import pytest
import torch
from helpers import build, losses_of
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, DefaultScope

import kd_mm
from kd_mm.errors import ConfigError

CONFIG = 'configs/kd/coco_s320/yolox_nano_femto_fitnet_coco_s320.py'


@pytest.fixture
def config(data_folder, monkeypatch):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    monkeypatch.chdir(root)
    cfg = Config.fromfile(CONFIG)
    folder = data_folder / 'coco_s320'
    cfg.train_dataloader.dataset.data_root = f'{folder}/'
    weights = data_folder / 'weights' / 'yolox_nano_coco_mmdet.pth'
    cfg.model.teacher.checkpoint = str(weights)
    return cfg


def photographs(cfg, count: int) -> dict:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    items = [dataset[i] for i in range(count)]
    return {key: [item[key] for item in items] for key in items[0]}


def test_a_real_teacher_finds_what_is_there(config):
    """Fed with the student's batch, YOLOX-nano puts boxes on most people."""
    model = build(config.model)
    batch = photographs(config, 8)
    data = model.data_preprocessor(batch, False)
    teacher = model.distiller.teacher
    found = teacher.model(
        teacher.bridge(data['inputs'], data['data_samples']),
        [s.clone() for s in data['data_samples']],
        mode='predict',
    )
    hits = total = 0
    for sample, truth in zip(found, data['data_samples'], strict=True):
        people = truth.gt_instances.bboxes[truth.gt_instances.labels == 0]
        scale = people.new_tensor(truth.scale_factor)
        sure = sample.pred_instances[sample.pred_instances.scores > 0.3]
        centres = (people[:, :2] + people[:, 2:]) / 2 / scale
        for centre in centres:
            inside = (sure.bboxes[:, :2] < centre) & (centre < sure.bboxes[:, 2:])
            hits += bool(inside.all(1).any())
            total += 1
    assert total > 5 and hits / total > 0.5, (hits, total)


def test_a_few_real_steps_bring_the_student_nearer(config):
    model = build(config.model)
    batch = photographs(config, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    values = []
    for _ in range(6):
        total, log = model.parse_losses(losses_of(model, batch))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(log['loss_kd_fpn'].detach()))
    assert values[-1] < 0.9 * values[0], values


def test_a_checkpoint_of_another_network_is_refused(config, data_folder):
    other = data_folder / 'weights' / 'mobilenet_v2_imagenet_mmpretrain.pth'
    config.model.teacher.checkpoint = str(other)
    with pytest.raises(ConfigError, match='does not cover YOLOX'):
        build(config.model)


def test_a_teacher_of_eighty_classes_teaches_a_student_of_one(config, data_folder):
    """The example of the guide: persons only, links found by themselves."""
    plain = Config.fromfile('configs/kd/coco_s320/yolox_femto_person_coco_s320.py')
    plain.train_dataloader.dataset.data_root = f'{data_folder / "coco_s320"}/'
    cfg = kd_mm.distil(
        plain,
        'configs/kd/coco_s320/yolox_nano_coco_s320.py',
        teacher_checkpoint=config.model.teacher.checkpoint,
    )
    model = build(cfg.model)
    assert list(model.distiller.links) == ['features']
    assert model.bbox_head.num_classes == 1
    batch = photographs(cfg, 4)
    labels = torch.cat([s.gt_instances.labels for s in batch['data_samples']])
    assert len(labels) and not labels.any()  # all are persons
    MessageHub.get_current_instance().update_info('iter', 0)
    losses = losses_of(model, batch)
    total, log = model.parse_losses(losses)
    total.backward()
    assert total.isfinite() and float(log['loss_kd_features']) > 0
