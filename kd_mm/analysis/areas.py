"""What DAM sees in images: areas of student and teacher, heat, and weights."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..stages.sokd.areas import Areas, area_mask, find_areas
from ..stages.sokd.dam import DAM
from ..unaugmented import feature_pairs, undisturbed
from ..utils.strides import cell_size

SIDES = ('student', 'teacher')


@dataclass
class AreaView:
    """One image through one link's DAM.

    Attributes:
        link (str): Name of the link.
        name (str): File name of the image, or its place in the batch.
        image (ndarray): ``(H, W, 3)`` uint8 RGB, as the network saw it, with padding.
        boxes (dict[str, ndarray]): Per side ``(K, 4)``, x1, y1, x2, y2 in pixels, of
            all levels.
        heat (dict[str, ndarray]): Per side ``(H, W)`` in [0, 1], the highest of all
            heatmaps and levels.
        weight (ndarray): ``(H, W)``, mean over the levels of the weights the criterion
            gets, each level's scaled to a mean of 1.
        truth (ndarray): ``(M, 4)``, ground-truth boxes in pixels; empty if unknown.
    """

    link: str
    name: str
    image: np.ndarray
    boxes: dict[str, np.ndarray]
    heat: dict[str, np.ndarray]
    weight: np.ndarray
    truth: np.ndarray

    def coverage(self) -> float:
        """Share of the weight that lies in ground-truth boxes, over their area share.

        1 is what a constant weight has; nan without boxes.
        """
        inside = np.zeros_like(self.weight, dtype=bool)
        for x1, y1, x2, y2 in self.truth.round().astype(int):
            inside[max(y1, 0) : y2, max(x1, 0) : x2] = True
        area, total = inside.mean(), self.weight.sum()
        if not area or not total:
            return float('nan')
        return float(self.weight[inside].sum() / total / area)


def dam_stages(model: nn.Module) -> dict[str, tuple[nn.Module, DAM]]:
    """Link and stage of every DAM in a distilled model, by the link's name.

    Raises:
        ConfigError: If there is none.
    """
    found = {
        name: (link, stage)
        for name, link in model.distiller.links.items()
        for stage in link.stages
        if isinstance(stage, DAM)
    }
    if not found:
        raise ConfigError('no link of the model has a stage kd_mm.DAM: nothing to draw')
    return found


def view_areas(model: nn.Module, loader: Iterable[dict]) -> list[AreaView]:
    """Run student and teacher on batches, and look at every DAM.

    The model is left as it was: modes, random state.

    Args:
        model (nn.Module): A distilled model, not wrapped.
        loader (Iterable[dict]): Batches as the data preprocessor wants them, images
            ``(3, H, W)`` uint8, with meta information.

    Returns:
        list[AreaView]: Image by image, and link by link.
    """
    stages, views = dam_stages(model), []
    batches = list(loader)
    with undisturbed(model):
        pairs = feature_pairs(model, batches, list(stages), title='kd_mm: areas')
        for batch, by_link in zip(batches, pairs, strict=True):
            for name, (link, stage) in stages.items():
                pair = by_link[name]
                for before in link.stages:
                    if before is stage:
                        break
                    pair = before(pair)
                sides = dict(
                    student=stage.predict(pair.student),
                    teacher=stage.predict(pair.teacher),
                )
                samples = batch['data_samples']
                views += _views(
                    name, stage, sides, batch['inputs'], samples, pair.image_size
                )
    return views


def _views(link, stage, sides, images, samples, size) -> list[AreaView]:
    boxes = {side: _pixel_boxes(sides[side], stage.top_k, size) for side in SIDES}
    heat = {side: _highest(sides[side], size) for side in SIDES}
    weight = _weights(stage, sides, size)
    out = []
    for i, (image, sample) in enumerate(zip(images, samples, strict=True)):
        out.append(
            AreaView(
                link=link,
                name=str(sample.metainfo.get('img_path', i)).rsplit('/', 1)[-1],
                image=_canvas(image, size),
                boxes={side: boxes[side][i].numpy() for side in SIDES},
                heat={side: heat[side][i].numpy() for side in SIDES},
                weight=weight[i].numpy(),
                truth=_truth(sample),
            )
        )
    return out


def _pixel_boxes(levels: list[Areas], top_k: int, size: tuple[int, int]) -> Tensor:
    found = []
    for areas in levels:
        height, width = areas.heat.shape[2:]
        boxes = find_areas(areas, top_k)
        tall, wide = cell_size((height, width), size)
        scale = boxes.new_tensor([wide, tall]).repeat(2)
        found.append(boxes * scale)
    return torch.cat(found, 1).cpu()


def _highest(levels: list[Areas], size: tuple[int, int]) -> Tensor:
    maps = [
        F.interpolate(a.heat.amax(1, keepdim=True), size, mode='bilinear')
        for a in levels
    ]
    return torch.cat(maps, 1).amax(1).cpu()


def _weights(stage: DAM, sides: dict, size: tuple[int, int]) -> Tensor:
    maps = []
    for student, teacher in zip(sides['student'], sides['teacher'], strict=True):
        mask = area_mask(
            stage.boxes(student, teacher),
            student.heat.shape[2:],
            overlap=stage.overlap,
            normalise='area',
        )
        maps.append(F.interpolate(mask, size, mode='nearest'))
    return torch.cat(maps, 1).mean(1).cpu()


def _canvas(image: Tensor, size: tuple[int, int]) -> np.ndarray:
    """BGR ``(3, h, w)`` as RGB, padded as the network saw it."""
    canvas: np.ndarray = np.zeros((*size, 3), dtype=np.uint8)
    pixels = image[:, : size[0], : size[1]].permute(1, 2, 0).cpu().numpy()
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels[..., ::-1]
    return canvas


def _truth(sample) -> np.ndarray:
    boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
    if boxes is None:
        return np.zeros((0, 4))
    return getattr(boxes, 'tensor', boxes).cpu().numpy().reshape(-1, 4)
