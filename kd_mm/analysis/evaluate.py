"""Evaluate a network as MMEngine's loops do, outside of them."""

from collections.abc import Iterable

import torch
from mmengine.evaluator import Evaluator
from torch import nn


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable, evaluator: Evaluator) -> dict:
    """Metrics of ``model`` on a data loader.

    What an evaluation that failed midway has left in the metrics is thrown away:
    MMEngine empties them at the end of one only, and would mix both.

    Args:
        model (nn.Module): A detector or classifier in eval mode.
        loader (Iterable): Of the validation set.
        evaluator (Evaluator): Its metrics.

    Returns:
        dict: By name.
    """
    dataset = loader.dataset  # type: ignore[attr-defined]
    device = next(model.parameters()).device
    for module in model.modules():  # a network that was moved behind MMEngine's back
        if hasattr(module, '_device'):
            module._device = device
    if hasattr(dataset, 'metainfo'):
        evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        metric.results.clear()
    for batch in loader:
        evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
    return evaluator.evaluate(len(dataset))
