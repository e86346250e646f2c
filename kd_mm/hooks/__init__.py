"""Hooks: what needs MMEngine's training loop."""

from .distill_hook import DistillHook

__all__ = ['DistillHook']
