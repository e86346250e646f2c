"""The docstrings' few words of reStructuredText, for a site in Markdown."""

import re

import griffe

# :class:`kd_mm.link.Link` and :meth:`~a.b.c` become links where they are absolute
ROLE = re.compile(r':(?:class|meth|func|mod|attr|obj):`~?([\w.]+)`')


class RstRoles(griffe.Extension):
    """Rewrites roles and ``::`` before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is None:
            return
        text = ROLE.sub(self._link, obj.docstring.value)
        obj.docstring.value = re.sub(r'::\n', ':\n', text)

    @staticmethod
    def _link(match: re.Match) -> str:
        name = match[1]
        return f'[`{name}`][{name}]' if name.startswith('kd_mm.') else f'`{name}`'
