"""``python -m kd_mm TOOL ...``: the tools, wherever the package is installed.

They are the files of ``tools/``: a wheel holds copies, an editable install links.
"""

import ast
import importlib.util
import sys
from pathlib import Path

from .errors import nearest

HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / '.mim' / 'tools', HERE.parent / 'tools')  # installed; a bare checkout


def tools() -> dict[str, Path]:
    """The tools by name."""
    folder = next(filter(Path.is_dir, FOLDERS))
    return {path.stem: path for path in sorted(folder.glob('*.py'))}


def usage() -> str:
    """What can be called, with the first line of each tool's docstring."""
    lines = ['usage: python -m kd_mm TOOL [arguments]', '']
    for name, path in tools().items():
        about = ast.get_docstring(ast.parse(path.read_text())) or ''
        what = about.partition('\n')[0].partition(': python ')[0].rstrip('.')
        lines.append(f'  {name:<19}{what}')
    return '\n'.join([*lines, '', 'python -m kd_mm TOOL --help says more.'])


def main() -> int | None:
    """Run the tool that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print(usage())
        return 0
    path = tools().get(name)
    if path is None:
        hint = f'{nearest(name, tools())} (see python -m kd_mm --help)'
        print(f'error: there is no tool {name!r}; {hint}', file=sys.stderr)
        return 2
    sys.path.insert(0, str(path.parent))  # as for a script: tools share code
    sys.argv[:2] = [f'python -m kd_mm {name}']  # what its --help calls it
    spec = importlib.util.spec_from_file_location(f'kd_mm_tool_{name}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


if __name__ == '__main__':
    sys.exit(main())
