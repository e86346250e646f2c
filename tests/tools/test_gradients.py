"""Two processes started by dist_train.sh equal one with the doubled batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]

HOOK = '''
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveGradients(Hook):
    """Batch norm in eval mode, and the gradients of the first step in a file."""

    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        def save(*_):
            model = getattr(runner.model, 'module', runner.model)
            content = {n: p.grad for n, p in model.named_parameters()}
            if runner.iter == 0 and is_main_process():
                torch.save(content, self.path)

        runner.optim_wrapper.optimizer.register_step_pre_hook(save)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
'''


def train(folder: Path, *, processes: int) -> dict[str, torch.Tensor]:
    """Gradients of the first step over the same four images."""
    cfg = Config.fromfile(folder / 'distilled.py')
    # YOLOX normalises its losses over all ranks, as most heads of MMDetection do
    cfg.model.student = toys.yolox(classes=1)
    cfg.model.teacher.config.model = toys.yolox(widen=0.25, classes=1)
    cfg.model.links.fpn.levels = [0, 1, 2]
    cfg.train_dataloader.batch_size = 4 // processes
    path = folder / f'gradients_{processes}.pth'
    cfg.custom_imports = dict(imports=['save_gradients'])
    cfg.custom_hooks = [dict(type='SaveGradients', path=str(path))]
    (folder / 'save_gradients.py').write_text(HOOK)
    config = folder / f'config_{processes}.py'
    cfg.dump(config)
    command = [sys.executable, ROOT / 'tools/train.py', config]
    if processes > 1:
        command = [ROOT / 'tools/dist_train.sh', config, processes]
    done = subprocess.run(
        [*map(str, command), '--work-dir', str(folder / f'work_{processes}')],
        env={**os.environ, 'PYTHONPATH': str(folder), 'PYTHON': sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'find_unused_parameters' not in config.read_text()
    return torch.load(path)


@pytest.mark.dist
def test_gradients_equal_those_of_one_process_with_the_doubled_batch(toy):
    two, one = train(toy, processes=2), train(toy, processes=1)
    assert set(one) == set(two) and any(n.startswith('distiller.') for n in one)
    for name, gradient in one.items():
        assert gradient is not None, name
        error = float((gradient - two[name]).abs().max())
        assert error < 1e-5 * max(1.0, float(gradient.abs().max())), (name, error)
