"""Links found by themselves: ``links='auto'`` or the name of a method."""

from .find import find_links
from .methods import AUTO, NAMES, TRAINED, check_method

__all__ = ['AUTO', 'NAMES', 'TRAINED', 'check_method', 'find_links']
