"""Hooks: what needs MMEngine's training loop."""

from .distill_hook import DistillHook
from .draw_hook import DrawSoKDHook

__all__ = ['DistillHook', 'DrawSoKDHook']
