"""CIFAR in its Python pickles, but not byte for byte the original files."""

import pickle
from collections.abc import Sequence
from typing import Literal

from mmengine.fileio import get, join_path

from ..options import checked
from ..registry import DATASETS
from ..toolboxes import stand_in

try:
    from mmpretrain.datasets import CIFAR100
except ImportError:  # said when the data set is built
    CIFAR100 = stand_in('mmpretrain')


@DATASETS.register_module()
class RepackedCIFAR(CIFAR100):
    """CIFAR-10 or CIFAR-100 in files ``train``, ``test`` and ``meta``, unchecked.

    MMPretrain's own data sets insist on the original files by their checksums, so
    subsets, cleaned labels or another order of the images do not load there.

    Args:
        data_root (str): Folder.
        folder (str): Folder in ``data_root`` with the pickles. Defaults to
            'cifar-100-python'.
        split (str): 'train' or 'test'. Defaults to 'train'.
        pipeline (Sequence): As in any data set of MMEngine.
        test_mode (bool): As in any data set of MMEngine. Defaults to False.
    """

    train_list = [['train', None]]
    test_list = [['test', None]]
    METAINFO: dict = {}

    @checked
    def __init__(
        self,
        *,
        data_root: str,
        folder: str = 'cifar-100-python',
        split: Literal['train', 'test'] = 'train',
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        self.base_folder = folder
        super().__init__(
            data_root=data_root,
            split=split,
            download=False,
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def _load_meta(self) -> None:
        path = join_path(self.data_prefix['root'], self.base_folder, 'meta')
        names = pickle.loads(get(path), encoding='latin1')
        classes = names.get('fine_label_names', names.get('label_names'))
        self._metainfo.setdefault('classes', tuple(classes))
