"""Data sets that the project makes itself, for its demo and its tests."""

from .digit_images import DigitImages
from .digits import make_digits

__all__ = ['DigitImages', 'make_digits']
