"""Every wrong use ends in one line that names the key, with exit code 2."""

from collections import Counter

import pytest
import torch
from mmengine.runner import Runner
from toy_run import write_teacher
from wrong_cases import Case
from wrong_uses import CASES

NAMES = [f'{case.kind}-{" ".join(case.words)}' for case in CASES]


@pytest.fixture
def quick(monkeypatch):
    """Without the machine's report in the log, which takes longer than the rest."""
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, write_toy):
    """The toys that all cases share; none of them may write there."""
    folder = tmp_path_factory.mktemp('toy')
    write_toy(folder)
    torch.save(dict(state_dict={'some.weight': torch.ones(1)}), folder / 'other.pth')
    torch.save([1, 2], folder / 'list.pth')
    write_teacher(folder)
    (folder / 'text.pth').write_text('no checkpoint\n')
    (folder / 'empty.pth').write_bytes(b'')
    return folder


@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_it_is_one_line_and_leaves_nothing(
    case: Case, folder, tmp_path, run, quick, record_property
):
    places = dict(toy=folder, case=tmp_path / 'case.py', new=tmp_path / 'new' / 'out')

    def here(text):
        for name, place in places.items():
            text = text.replace(f'{{{name}}}', str(place))
        return text

    if case.text:
        (tmp_path / 'case.py').write_text(here(case.text))
    arguments = [here(argument) for argument in case.arguments]
    if case.tool in ('train', 'test') and '--work-dir' not in arguments:
        arguments += ['--work-dir', str(tmp_path / 'new' / 'work')]
    code, lines = run(case.tool, *arguments)
    record_property('said', lines[0] if lines else f'exit code {code}, nothing said')
    assert code == 2 and len(lines) == 1, lines
    assert all(word in lines[0] for word in case.words), (lines[0], case.words)
    assert not (tmp_path / 'new').exists()


def test_there_are_enough_and_none_twice():
    assert len(CASES) >= 183
    assert not [case for case, count in Counter(CASES).items() if count > 1]


def test_weights_that_are_nan_replace_no_checkpoint(toy, run):
    """The learning rate explodes in the second epoch; the first one's file is whole."""
    work = toy / 'work'
    options = ('--work-dir', work, '--cfg-options', 'train_cfg.max_epochs=3')
    options += ('default_hooks.checkpoint.max_keep_ckpts=1',)
    (toy / 'explodes.py').write_text(
        "_base_ = './distilled.py'\n"
        "param_scheduler = [dict(type='MultiStepLR', milestones=[1], gamma=1e30)]\n"
    )
    code, lines = run('train', toy / 'explodes.py', *options)
    assert code == 2 and 'NaN or infinite' in lines[0], lines
    kept = torch.load(work / 'epoch_1.pth', weights_only=False)['state_dict']
    assert all(v.isfinite().all() for k, v in kept.items() if 'distiller' not in k)
    assert not (work / 'epoch_2.pth').exists()
    assert (work / 'last_checkpoint').read_text().endswith('epoch_1.pth')
