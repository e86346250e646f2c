"""The promises once more where training classifiers differs from training detectors."""

import copy

import pytest
import torch
import toys
from helpers import build, classification_batch, distill_cfg, losses_of
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

import kd_mm.utils.amp  # noqa: F401  (registers the wrapper)

STUDENT, TEACHER = toys.classifier(classes=10), toys.classifier(classes=10, base=16)
MIXED = dict(
    augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)],
    probs=[0.5, 0.5],
)


def links() -> dict:
    """A map, a pooled vector and the logits."""
    feature = [dict(type='kd_mm.ConvAdapter')], dict(type='kd_mm.MSELoss')
    logits = [], dict(type='kd_mm.KDLoss')
    return {
        name: dict(student=tap, teacher=tap, stages=parts[0], criterion=parts[1])
        for name, tap, parts in (
            ('map', 'backbone', feature),
            ('vector', 'neck', feature),
            ('logits', 'head.fc', logits),
        )
    }


def mixed(model: dict) -> dict:
    """The same model with mixup and cutmix in its preprocessor."""
    model = copy.deepcopy(model)
    model['data_preprocessor']['batch_augments'] = MIXED
    return model


def smooth(model: dict) -> dict:
    """The same model with label smoothing."""
    model = copy.deepcopy(model)
    model['head']['loss'] = dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    return model


def loader(split: str, *, shuffle: bool) -> dict:
    return dict(
        dataset=dict(
            type='kd_mm.DigitImages', split=split, pipeline=[dict(type='PackInputs')]
        ),
        batch_size=50,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='pseudo_collate'),
    )


def runner(model: dict, work_dir, *, epochs: int = 2, **extra) -> Runner:
    """An MMEngine Runner of a classifier on the digits."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            train_dataloader=loader('train', shuffle=True),
            val_cfg=dict(),
            val_dataloader=loader('val', shuffle=False),
            val_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
                clip_grad=dict(max_norm=5.0),
            ),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name=f'{work_dir.name}-{id(work_dir)}',
        )
    )
    cfg.merge_from_dict(extra)
    return Runner.from_cfg(cfg)


def test_mixed_images_are_the_same_for_teacher_and_student():
    model = build(distill_cfg(mixed(STUDENT), TEACHER, links()))
    seen = {}
    model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.update(student=inputs[0])
    )
    model.distiller.teacher.model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.update(teacher=inputs[0])
    )
    batch = classification_batch(classes=10)
    plain = model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    losses_of(model, batch)
    assert torch.equal(seen['student'], seen['teacher'])
    assert not torch.allclose(seen['student'], plain)


def test_mixed_images_of_a_teacher_with_other_constants_are_normalised_for_it():
    teacher = copy.deepcopy(TEACHER)
    teacher.data_preprocessor.update(
        mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False, batch_augments=None
    )
    model = build(distill_cfg(mixed(STUDENT), teacher, links()))
    seen = {}
    model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.update(student=inputs[0])
    )
    model.distiller.teacher.model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.update(teacher=inputs[0])
    )
    losses_of(model, classification_batch(classes=10))
    pre = model.data_preprocessor
    pixels = (seen['student'] * pre.std + pre.mean).flip(1)
    assert torch.allclose((pixels - 127.5) / 127.5, seen['teacher'], atol=1e-4)


@pytest.mark.parametrize('change', [mixed, smooth], ids=['mixed', 'smooth'])
def test_task_losses_are_the_plain_students(change):
    plain = build(change(STUDENT))
    set_random_seed(3)
    plain = losses_of(plain, classification_batch(classes=10))
    model = build(distill_cfg(change(STUDENT), TEACHER, links()))
    set_random_seed(3)
    losses = losses_of(model, classification_batch(classes=10))
    assert torch.equal(losses['loss'], plain['loss'])
    added = {'loss_kd_map', 'loss_kd_vector', 'loss_kd_logits'}
    assert set(losses) - set(plain) == added
    assert all(losses[name].item() > 0 for name in added)


class _Interrupt(Hook):
    """Somebody presses Ctrl-C in the second epoch."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    cfg = distill_cfg(smooth(STUDENT), TEACHER, links())
    extra = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)])
    whole = runner(cfg, tmp_path / 'whole', epochs=3, **extra)
    whole.train()
    first = runner(cfg, tmp_path / 'parts', epochs=3, **extra)
    first.register_hook(_Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = runner(cfg, tmp_path / 'parts', epochs=3, resume=True, **extra)
    second.train()
    theirs = whole.model.state_dict()
    for key, value in second.model.state_dict().items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize(
    'extra',
    [
        dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)]),
        dict(optim_wrapper=dict(accumulative_counts=2)),
        dict(optim_wrapper=dict(type='CPUAmpOptimWrapper')),
    ],
    ids=['ema', 'accumulation', 'amp'],
)
def test_learns_the_digits_with(tmp_path, extra):
    cfg = distill_cfg(smooth(STUDENT), TEACHER, links())
    run = runner(cfg, tmp_path, epochs=8, **extra)
    run.train()
    accuracy = run.message_hub.get_scalar('val/accuracy/top1').current()
    assert accuracy > 50  # of ten classes
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_a_trained_checkpoint_predicts_the_same_without_kd_mm(tmp_path):
    run = runner(distill_cfg(STUDENT, TEACHER, links()), tmp_path, epochs=1)
    run.train()
    plain = build(STUDENT)
    saved = torch.load(tmp_path / 'epoch_1.pth', map_location='cpu', weights_only=False)
    state = saved['state_dict']
    own = {k: v for k, v in state.items() if not k.startswith('distiller.')}
    plain.load_state_dict(own, strict=True)
    batch = next(iter(run.val_dataloader))
    ours = run.model.val_step(copy.deepcopy(batch))
    theirs = plain.eval().val_step(copy.deepcopy(batch))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.pred_score, other.pred_score)
