"""One trial pass through a network, before training: what do its taps give?"""

from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch import nn

from .errors import ConfigError
from .taps import Recording, Taps


class TrialSample(DetDataSample, DataSample):
    """Ground truth and image sizes that detectors and classifiers can both read."""


def trial_samples(count: int, size: Sequence[int]) -> list[TrialSample]:
    """Data samples of ``count`` images of ``size`` (height, width), one box each."""
    height, width = size
    samples = []
    for _ in range(count):
        sample = TrialSample(
            metainfo=dict(
                img_shape=(height, width),
                ori_shape=(height, width),
                pad_shape=(height, width),
                batch_input_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[width / 4, height / 4, width / 2, height / 2]]),
            labels=torch.zeros(1, dtype=torch.long),
        )
        sample.set_gt_label(0)
        samples.append(sample)
    return samples


@torch.no_grad()
def trial(
    model: nn.Module, taps: Taps, inputs: torch.Tensor, samples: Sequence[TrialSample]
) -> tuple[Recording, set[nn.Module]]:
    """Run ``model`` once, completely, in eval mode, and let ``taps`` learn from it.

    Args:
        model (nn.Module): Student or teacher; its modes are restored.
        taps (Taps): Its taps.
        inputs (Tensor): ``(N, 3, H, W)``, as after the model's preprocessor.
        samples (Sequence): N trial samples.

    Returns:
        tuple[Recording, set[nn.Module]]: What the taps saw, and which direct children
        had been called when the last tap fired.

    Raises:
        ConfigError: If the pass fails, or a tap is never reached.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, child=child: called.add(child))
        for child in model.children()
        for module in child.modules()
    ]
    try:
        with taps.record(model) as recording:
            model(inputs, list(samples), mode='predict')
        taps.learn(recording)
        called.clear()
        with taps.record(model, stop=True):
            model(inputs, list(samples), mode='predict')
    except ConfigError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f'a trial pass of the {taps.owner} {type(model).__name__} on images of '
            f'{tuple(inputs.shape[2:])} failed: {error}; a network made for one image '
            'size needs trial_size=(height, width)'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return recording, called
