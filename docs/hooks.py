"""Pages that lie outside ``docs/``: the README is the start page of the site."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    'index.md': 'README.md',
    'contributing.md': 'CONTRIBUTING.md',
    'changelog.md': 'CHANGELOG.md',
}
MOVED = {source: page for page, source in PAGES.items()}
FILES = ('LICENSE', 'CITATION.cff', 'SECURITY.md')  # named, but no pages


LINK = re.compile(r'\[([^]]*)\]\((?!https?:)([^)#]+)(#[^)]*)?\)')


def moved(match: re.Match) -> str:
    """A link of a page at the root, from where the page is on the site."""
    words, target, anchor = match.groups('')
    target = posixpath.normpath(target)
    if target in FILES:
        return words
    return f'[{words}]({MOVED.get(target, target.removeprefix("docs/"))}{anchor})'


def on_files(files, config):
    for page, source in PAGES.items():
        text = LINK.sub(moved, (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    return files
