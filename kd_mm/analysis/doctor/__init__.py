"""Is distillation working, and if not, why?"""

from .examine import examine
from .finding import Finding, as_json, print_findings, worst

__all__ = ['Finding', 'as_json', 'examine', 'print_findings', 'worst']
