"""What finished runs left in their folders."""

import json
import math
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...errors import ConfigError
from ...utils.kinds import is_type
from ...utils.metrics import better_when_higher

MARK = 'kd_mm: '
TEACHER = f'{MARK}the teacher on the validation set: '


@dataclass
class Run:
    """One training.

    Attributes:
        name (str): What it is called in the page.
        folder (Path): Its work dir.
        seed (int | None): Of its config.
        distilled (bool): Whether it has a teacher.
        steps (list[dict]): What was logged of training, by iteration.
        values (list[dict]): What was logged of validation.
        teacher (dict[str, float]): The teacher's metrics, where the log has them.
        said (list[str]): Warnings of links that do not work, in its log.
        named (bool): Whether the name was given; else it is the folder's.
    """

    name: str
    folder: Path
    seed: int | None
    distilled: bool
    steps: list[dict]
    values: list[dict]
    teacher: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    named: bool = False

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of anything in the log."""
        rows = self.values if any(key in row for row in self.values) else self.steps
        found = [(r['step'], r[key]) for r in rows if _number(r.get(key))]
        return [float(x) for x, _ in found], [float(y) for _, y in found]

    def keys(self, start: str, end: str = '') -> list[str]:
        """Log entries of training by their names' beginnings and ends."""
        names = dict.fromkeys(key for row in self.steps for key in row)
        return [n for n in names if n.startswith(start) and n.endswith(end)]

    @property
    def metrics(self) -> list[str]:
        """Validation metrics, those that are read first in front."""
        names = dict.fromkeys(
            k
            for row in self.values
            for k, v in row.items()
            if _number(v) and k not in ('step', 'time', 'data_time')
        )
        return sorted(names, key=lambda name: not better_when_higher(name))

    def last(self, metric: str) -> float:
        """A validation metric at the end; nan where there is none."""
        values = self.curve(metric)[1]
        return values[-1] if values else math.nan

    @property
    def seconds(self) -> float:
        """Median time of a step."""
        values = self.curve('time')[1] if self.steps else []
        own = [r['time'] for r in self.steps if _number(r.get('time'))]
        return statistics.median(own or values or [math.nan])

    @property
    def memory(self) -> float:
        """Largest memory of an accelerator in MB; nan on a CPU."""
        own = [r['memory'] for r in self.steps if _number(r.get('memory'))]
        return max(own, default=math.nan)

    def task_loss(self) -> tuple[list[float], list[float]]:
        """The loss without what the links add.

        The log's ``loss`` is the sum where there are parts beside it; a classifier of
        MMPretrain calls its own loss so.
        """
        xs, ys = [], []
        for row in self.steps:
            parts = {
                k: v
                for k, v in row.items()
                if 'loss' in k and _number(v) and not k.startswith('loss_kd_')
            }
            if not parts:
                continue
            own = [v for k, v in parts.items() if k != 'loss']
            xs.append(float(row['step']))
            ys.append(float(sum(own) if own else parts['loss']))
        return xs, ys


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_run(text: str) -> Run:
    """Read a run.

    Args:
        text (str): Its work dir, or NAME=FOLDER.

    Raises:
        ConfigError: If nothing was trained there.
    """
    folder = Path(text)
    name = ''
    if not folder.is_dir() and '=' in text:  # a folder may be called lr=0.01
        name, _, path = text.partition('=')
        folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f'{folder}: there is no such folder')
    trained: list[dict] = []
    measured: list[dict] = []
    cfg = Config()
    for log in sorted(folder.glob('*/vis_data/scalars.json')):
        rows = _rows(log)
        if not rows:
            continue
        cfg = _config(log.with_name('config.py'), folder)
        if cfg.get('resume') is False:  # a new run in the folder of an old one
            trained, measured = [], []
        for row in rows:
            (trained if any('loss' in key for key in row) else measured).append(row)
    if not trained and not measured:
        raise ConfigError(f'{folder} holds no log of a training (scalars.json)')
    model = cfg.get('model') or {}
    return Run(
        name=name or folder.name,
        folder=folder,
        seed=(cfg.get('randomness') or {}).get('seed'),
        distilled=is_type(model, 'kd_mm.Distill'),
        steps=_latest(trained),
        values=_latest(measured),
        named=bool(name),
        **_said(folder),
    )


def _rows(path: Path) -> list[dict]:
    """Of a log; a run that was killed leaves half a line at its end."""
    rows = []
    for line in path.read_text(errors='replace').splitlines():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _latest(rows: list[dict]) -> list[dict]:
    """Of a run that was resumed, what came later for a step."""
    found = {row.get('step', i): row for i, row in enumerate(rows)}
    return [found[step] for step in sorted(found)]


def _config(beside: Path, folder: Path) -> Config:
    """That of a log; a test leaves others in the same folder."""
    files = [beside] if beside.is_file() else sorted(folder.glob('*.py'))
    try:
        return Config.fromfile(files[-1]) if files else Config()
    except Exception as error:  # a config is code: anything can come out of it
        raise ConfigError(f'{files[-1]} cannot be read: {error}') from error


def _said(folder: Path) -> dict:
    """The teacher's metrics and warnings, out of the text logs."""
    teacher: dict[str, float] = {}
    said: dict[str, None] = {}
    for path in sorted(folder.glob('*/*.log')):
        for line in path.read_text(errors='replace').splitlines():
            if known := line.partition(TEACHER)[2]:
                teacher = _numbers(known)
            text = line.partition('WARNING - ')[2].removeprefix(MARK)
            if text.startswith('links.') or 'distillation harms' in text:
                said[text] = None  # what else is warned of explains no result
    return dict(teacher=teacher, said=list(said))


def _numbers(text: str) -> dict[str, float]:
    pairs = (part.rsplit(' ', 1) for part in text.split(', '))
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}


def read_metrics(folder: str) -> dict[str, float]:
    """Metrics of a folder of ``tools/test.py``, or of a run.

    Raises:
        ConfigError: If there are none.
    """
    files = sorted(Path(folder).glob('*/*.json'), key=lambda p: p.stat().st_mtime)
    for path in reversed(files):
        row = (_rows(path) or [{}])[-1]
        found = {k: float(v) for k, v in row.items() if _number(v)}
        if found:
            return found
    run = read_run(folder)
    return {name: run.last(name) for name in run.metrics}
