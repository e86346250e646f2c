"""All wrong uses of the tools: what is done, and what the one line must hold.

    python tests/tools/wrong_uses.py          all of them, by kind, with what is said
    python tests/tools/wrong_uses.py schedule those of one kind

Every one ends with exit code 2 and one line on stderr that begins with ``error:``,
holds all the words of its case, and leaves no work dir behind. ``test_wrong_uses.py``
runs them under pytest.
"""

import sys
from pathlib import Path

import pytest
import wrong_commands
import wrong_models
import wrong_options

CASES = [*wrong_commands.CASES, *wrong_models.CASES, *wrong_options.CASES]


def main() -> int:
    """Run all, or the kinds whose names hold the argument; print what is said."""
    said: dict[str, list[tuple[str, str]]] = {}

    class Listen:
        def pytest_runtest_logreport(self, report):
            for key, line in report.user_properties:
                if report.when == 'call' and key == 'said':
                    kind = report.nodeid.partition('[')[2].partition('-')[0]
                    mark = 'ok ' if report.passed else 'NOT'
                    said.setdefault(kind, []).append((mark, line))

    file = str(Path(__file__).with_name('test_wrong_uses.py'))
    chosen = ['-k', sys.argv[1]] if len(sys.argv) > 1 else []
    code = pytest.main(['-q', '--tb=no', *chosen, file], plugins=[Listen()])
    for kind, lines in said.items():
        fine = sum(mark == 'ok ' for mark, _ in lines)
        print(f'\n{kind}: {fine} of {len(lines)}')
        for mark, line in lines:
            print(f'  {mark} {line}')
    every = [mark for lines in said.values() for mark, _ in lines]
    print(f'\n{sum(mark == "ok " for mark in every)} of {len(every)} end in one line')
    return int(code)


if __name__ == '__main__':
    sys.exit(main())
