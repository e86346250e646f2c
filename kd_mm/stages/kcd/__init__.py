"""KCD: the teacher's channels in the student's order (arXiv 2103.16844).

Channel i means one thing to the teacher and another to the student; the teacher's are
brought into the student's order, once, and stay there.

- ``align.py``: :class:`ChannelAlign`, the stage: when a map is fitted, what it does.
- ``matching.py``: which channel belongs to which; ``moments.py``: streamed statistics
  of both networks' channels; ``fit.py``: one pass over un-augmented images.

Only the abstract of the paper is public: the idea is theirs, measures, transforms and
the moment of fitting are our choice.
"""

from .align import ChannelAlign
from .fit import fit_channels

__all__ = ['ChannelAlign', 'fit_channels']
