"""SoKD: a teacher augmented for its student, in areas of mutual interest (2409.18785).

- ``dafa.py``: :class:`DAFA` learns how to augment the teacher's features;
  ``policy.py``: what is drawn and learnt; ``operators.py``: what can be done to a
  feature; ``unrolled.py``: the policy's gradient through one step of the student.
- ``dam.py``: :class:`DAM` finds areas and confines the transfer to them; ``areas.py``:
  their prediction, selection and weights.

The parts are the paper's. Ours: gradients reach the policy one step late, the
'consistency' objective, a start after the first epoch, areas supervised by boxes.
"""

from .dafa import DAFA
from .dam import DAM

__all__ = ['DAFA', 'DAM']
