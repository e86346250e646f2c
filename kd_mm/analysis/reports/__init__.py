"""What became of a distillation: one page."""

from .page import page
from .runs import Run, read_metrics, read_run

__all__ = ['Run', 'page', 'read_metrics', 'read_run']
