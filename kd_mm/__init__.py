"""Knowledge distillation for MMDetection and MMPretrain."""

from mmengine.config.utils import MODULE2PACKAGE

from .version import __version__

# Lets `_base_ = 'kd_mm::kd/...'` and `teacher=dict(config='kd_mm::kd/...')` find the
# packaged configs: MMEngine keeps a closed table of the packages it knows.
MODULE2PACKAGE.setdefault('kd_mm', 'kd_mm')

__all__ = ['__version__']
