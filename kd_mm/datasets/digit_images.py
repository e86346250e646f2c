"""Handwritten digits as a classification data set of MMPretrain's form."""

from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from ..options import at_least, checked
from ..registry import DATASETS

SPLITS = dict(train=(0, 600), val=(600, 1000), test=(1000, 1797))


@DATASETS.register_module()
class DigitImages(BaseDataset):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels of 16 greys, enlarged.

    They come with scikit-learn (the UCI set "Optical Recognition of Handwritten
    Digits"), so nothing is downloaded. Shuffled once, always alike.

    Args:
        split (str): 'train' (600 images), 'val' (400, to choose settings by) or 'test'
            (797, to report). Defaults to 'train'.
        size (int): Side of the images in pixels. Defaults to 32.
        indices (int | Sequence[int], optional): Only the first so many images, or
            these, as in any data set of MMEngine. Defaults to None, all.
        pipeline (Sequence): As in any data set of MMEngine; an item has ``img``
            (``(size, size, 3)``, uint8, three equal channels) and ``gt_label``.
        test_mode (bool): As in any data set of MMEngine. Defaults to False.

    Raises:
        ConfigError: On another split, or a size below 8.
    """

    METAINFO = dict(classes=tuple('0123456789'))

    @checked
    def __init__(
        self,
        *,
        split: Literal['train', 'val', 'test'] = 'train',
        size: Annotated[int, at_least(8)] = 32,
        indices: int | Sequence[int] | None = None,
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        self.split, self.size = split, size
        super().__init__(indices=indices, pipeline=list(pipeline), test_mode=test_mode)

    def load_data_list(self) -> list[dict]:
        """Read by MMEngine."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))
        rows = order[slice(*SPLITS[self.split])]
        return [
            dict(
                img=self._enlarged(digits.images[row]), gt_label=int(digits.target[row])
            )
            for row in rows
        ]

    def _enlarged(self, image: np.ndarray) -> np.ndarray:
        grey = np.clip(image * (255 / 16), 0, 255).astype(np.uint8)
        grey = cv2.resize(grey, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.repeat(grey[..., None], 3, axis=2)
