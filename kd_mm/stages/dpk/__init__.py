"""DPK: part of the teacher's feature is the student's input (arXiv 2206.06067).

- ``dpk.py``: :class:`DPK`, the stage: which positions the teacher gives, and how many.
- ``prior_net.py``: the two encoders and the decoder that rebuild the teacher's map.
- ``cka.py``: the feature gap, as unbiased mini-batch CKA.

Network and loss are the authors'. Ours: CKA on 8 x 8 cells and one step late, so that
no step waits for the device; 2-D positions.
"""

from .dpk import DPK

__all__ = ['DPK']
