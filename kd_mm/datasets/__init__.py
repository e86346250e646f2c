"""Data sets that the project makes itself, for its demo and its tests."""

from .digits import make_digits

__all__ = ['make_digits']
