"""Data sets that the project makes itself, and faster ways to small images."""

from .digit_images import DigitImages
from .digits import make_digits
from .repacked_cifar import RepackedCIFAR
from .tensor_images import TensorImages, ready_batch

__all__ = [
    'DigitImages',
    'RepackedCIFAR',
    'TensorImages',
    'make_digits',
    'ready_batch',
]
