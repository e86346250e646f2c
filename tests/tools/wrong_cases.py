"""A wrong use of a tool as data, and short ways to write down many of a kind."""

from dataclasses import dataclass

TOY = '{toy}'  # replaced by the folder of toys


@dataclass(frozen=True)
class Case:
    """One wrong use.

    Attributes:
        kind (str): What sort of mistake.
        words (tuple[str, ...]): What the line must hold, a key of the config first.
        tool (str): Name of the script in ``tools``.
        arguments (tuple[str, ...]): ``{toy}`` is the folder of toys, ``{case}`` the
            config below.
        text (str): Of a config of its own; '' for none.
    """

    kind: str
    words: tuple[str, ...]
    tool: str
    arguments: tuple[str, ...]
    text: str = ''


class Cases(list[Case]):
    """Wrong uses; every method adds some of one kind, a row for each."""

    def call(self, kind: str, tool: str, *rows: tuple) -> None:
        """Rows of (arguments as one string, words...)."""
        for arguments, *words in rows:
            self.append(Case(kind, tuple(words), tool, tuple(arguments.split(' '))))

    def override(self, kind: str, *rows: tuple, config: str = 'distilled') -> None:
        """Rows of (--cfg-options as one string, words...)."""
        start = '{toy}/' + config + '.py --cfg-options '
        self.call(kind, 'train', *((start + row[0], *row[1:]) for row in rows))

    def config(self, kind: str, *rows: tuple, base: str = 'distilled') -> None:
        """Rows of (what a config adds to its base, words...)."""
        for text, *words in rows:
            text = f"_base_ = '{TOY}/{base}.py'\n{text}\n" if base else text
            self.append(Case(kind, tuple(words), 'train', ('{case}',), text))

    def link(
        self, kind: str, *rows: tuple, base: str = 'distilled', name: str = 'fpn'
    ) -> None:
        """Rows of (keywords of the link, words...)."""
        self.config(
            kind,
            *((f'model = dict(links=dict({name}=dict({r[0]})))', *r[1:]) for r in rows),
            base=base,
        )

    def stage(self, kind: str, *rows: tuple) -> None:
        """Rows of (keywords of a stage behind an adapter, words...)."""
        adapter = "stages=[dict(type='kd_mm.ConvAdapter'), dict(type='kd_mm.%s', %s)]"
        self.link(
            kind,
            *((adapter % (r[0], r[1]), 'links.fpn.stages[1]', *r[2:]) for r in rows),
        )

    def criterion(self, kind: str, *rows: tuple) -> None:
        """Rows of (type, keywords, words...)."""
        what = "criterion=dict(_delete_=True, type='kd_mm.%s', %s)"
        self.link(
            kind, *((what % (r[0], r[1]), 'links.fpn.criterion', *r[2:]) for r in rows)
        )

    def model(self, kind: str, *rows: tuple, base: str = 'distilled') -> None:
        """Rows of (keywords of Distill, words...)."""
        self.config(kind, *((f'model = dict({r[0]})', *r[1:]) for r in rows), base=base)
