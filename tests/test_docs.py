"""What the documentation shows works."""

import re
from pathlib import Path

import pytest
import toys
from helpers import build, detection_batch, distill_cfg, fitnet, losses_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def test_the_example_of_a_new_stage_runs():
    text = (ROOT / 'docs/new_stage.md').read_text()
    code = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    scope = {}
    exec(compile(code, 'new_stage.md', 'exec'), scope)
    links = fitnet()
    links['fpn']['stages'].append(dict(type='kd_mm.RandomHide', ratio=0.99))
    hidden = losses_of(
        build(distill_cfg(toys.retinanet(), toys.retinanet(), links)), detection_batch()
    )
    shown = losses_of(
        build(distill_cfg(toys.retinanet(), toys.retinanet())), detection_batch()
    )
    assert float(hidden['loss_kd_fpn']) != float(shown['loss_kd_fpn'])


@pytest.mark.parametrize(
    'page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r'\]\((?!http)([^)#]+)', page.read_text()):
        assert (page.parent / target).exists(), target
