"""The command-line tools: what works, and what a user's mistake looks like."""

import pickle
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from toy_run import write_teacher

from kd_mm.errors import ConfigError
from kd_mm.utils import cli, overrides
from kd_mm.utils.overrides import check_overrides, check_top_level
from kd_mm.utils.session import Session, _without_resume, one_line

ROOT = Path(__file__).resolve().parents[2]


def test_train_then_test_then_export_a_distilled_student(toy, run):
    work = toy / 'work'
    assert run('train', toy / 'distilled.py', '--work-dir', work) == (0, [])
    checkpoint = work / 'epoch_1.pth'
    out, student = toy / 'predictions.pkl', toy / 'student.pth'
    written = (work / 'distilled.py').read_text()
    # in its own folder, which keeps the config that the run goes on with
    options = ('--work-dir', work, '--out', out)
    assert run('test', toy / 'distilled.py', checkpoint, *options) == (0, [])
    assert (work / 'distilled.py').read_text() == written
    assert len(pickle.loads(out.read_bytes())) == 8
    assert run('export_student', checkpoint, student) == (0, [])
    before = pickle.loads(out.read_bytes())
    options = ('--work-dir', work, '--out', out)
    (work / 'plain.py').write_text('# of a run')
    assert run('test', toy / 'plain.py', student, *options) == (0, [])
    assert (work / 'plain.py').read_text() == '# of a run'
    for one, two in zip(before, pickle.loads(out.read_bytes())):
        scores = one['pred_instances']['scores'], two['pred_instances']['scores']
        torch.testing.assert_close(*scores, rtol=0, atol=0)
    # --resume takes up the run where it ended
    more = ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert run('train', toy / 'distilled.py', '--work-dir', work, *more) == (0, [])
    assert torch.load(work / 'epoch_2.pth', weights_only=False)['meta']['iter'] == 8
    # and what is written still trains from where the run began
    again = Config.fromfile(work / 'distilled.py')
    assert not again.resume and again.load_from is None
    assert again.train_cfg.max_epochs == 2


def test_the_same_tools_serve_a_classifier(toy, run):
    work, config = toy / 'work', toy / 'classifier.py'
    assert run('train', config, '--work-dir', work) == (0, [])
    checkpoint, student = work / 'epoch_1.pth', toy / 'student.pth'
    assert run('export_student', checkpoint, student) == (0, [])
    options = ('--work-dir', toy / 'test', '--out', toy / 'predictions.pkl')
    assert run('test', config, student, *options) == (0, [])
    assert len(pickle.loads((toy / 'predictions.pkl').read_bytes())) == 8


def test_train_with_amp_on_cpu(toy, run):
    arguments = ('--work-dir', toy / 'work', '--amp')
    if torch.cuda.is_available():
        pytest.skip('there is an accelerator')
    # oneDNN's bf16 gradients of 3x3 convolutions on 1x1 maps hold what memory held
    with torch.backends.mkldnn.flags(enabled=False):
        assert run('train', toy / 'distilled.py', *arguments) == (0, [])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['no.py'], 'config no.py does not exist'),
        (['{toy}/plane.py'], 'nearest: plain.py'),
        (['{toy}'], 'is a folder'),
        (['{toy}/plain.py', '--bogus'], 'unrecognized arguments: --bogus'),
        (['{toy}/plain.py', '--cfg-options', 'a'], "key=value pairs, got 'a'"),
        (['{toy}/plain.py', '--cfg-options', 'model.nekc.num_outs=3'], "'neck'"),
        (['{toy}/plain.py', '--cfg-options', 'model.type=Retina'], 'Retina is not in'),
        (
            ['{toy}/plain.py', '--cfg-options', 'model.neck.new_key=3'],
            "unexpected keyword argument 'new_key'",
        ),
        (['{toy}/plain.py', '--resume', 'no.pth'], 'checkpoint no.pth does not exist'),
        (
            ['{toy}/plain.py', '--cfg-options', 'train_dataloader.dataset.ann_file=x'],
            'No such file',
        ),
        (
            [
                '{toy}/distilled.py',
                '--cfg-options',
                'model.teacher.allow_random=False',
            ],
            'teacher',
        ),
        (
            [
                '{toy}/distilled.py',
                '--cfg-options',
                'model.teacher.checkpoint=nope.pth',
            ],
            'nope.pth',
        ),
        (['{toy}/plain.py', '--auto-scale-lr'], 'base_batch_size'),
        (['{toy}/plain.py', '--launcher', 'pytorch'], 'tools/dist_train.sh'),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(toy, run, arguments, message):
    arguments = [a.format(toy=toy) for a in arguments]
    work = toy / 'new' / 'work'
    code, lines = run('train', *arguments, '--work-dir', work)
    assert code == 2
    assert len(lines) == 1 and message in lines[0]
    assert not (toy / 'new').exists()


def test_a_failed_start_leaves_an_older_work_dir_alone(toy, run):
    work = toy / 'work'
    work.mkdir()
    (work / 'notes.txt').write_text('mine')
    options = ('--work-dir', work, '--cfg-options', 'model.type=Nothing')
    assert run('train', toy / 'plain.py', *options)[0] == 2
    assert (work / 'notes.txt').read_text() == 'mine'


def test_a_work_dir_that_is_a_file_is_refused(toy, run):
    code, lines = run('train', toy / 'plain.py', '--work-dir', toy / 'all.json')
    assert code == 2 and 'is a file' in lines[0]


def test_paths_of_pathlib_in_a_config_are_texts(tmp_path):
    (tmp_path / 'c.py').write_text(
        'import pathlib\nfrom pathlib import Path\n'
        'load_from = Path("a") / "b.pth"\n'
        'model = dict(teacher=dict(config=[pathlib.Path("c")]))\n'
    )
    cfg = cli.load_config(str(tmp_path / 'c.py'))
    cfg = Config.fromstring(cfg.pretty_text, '.py')  # as a checkpoint keeps it
    assert cfg.load_from == 'a/b.pth' and cfg.model.teacher.config == ['c']
    assert 'Path' not in cfg


def test_a_broken_config_names_the_file_and_the_line(toy, run):
    (toy / 'base.py').write_text('a = 1\nb = = 2\n')
    (toy / 'child.py').write_text("_base_ = './base.py'\n")
    code, lines = run('train', toy / 'child.py')
    assert code == 2 and 'base.py, line 2' in lines[0]


def test_test_refuses_the_checkpoint_of_another_model(toy, run):
    torch.save({'state_dict': {'some.weight': torch.ones(1)}}, toy / 'other.pth')
    options = ('--work-dir', toy / 'work')
    code, lines = run('test', toy / 'plain.py', toy / 'other.pth', *options)
    assert code == 2 and 'of another model' in lines[0]
    (toy / 'broken.pth').write_bytes(b'PK\x03\x04 damaged')
    code, lines = run('test', toy / 'plain.py', toy / 'broken.pth', *options)
    assert code == 2 and 'is truncated or damaged' in lines[0]
    code, lines = run('test', toy / 'plain.py', toy / 'no.pth', *options)
    assert code == 2 and 'no.pth does not exist' in lines[0]
    assert not (toy / 'work').exists()


def test_amp_refuses_another_optim_wrapper(toy):
    args = cli.Parser()
    cli.add_common_arguments(args)
    args.add_argument('config')
    cfg = cli.read_config(args.parse_args([str(toy / 'plain.py')]))
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ConfigError, match='ApexOptimWrapper'):
        cli.use_amp(cfg)


@pytest.mark.parametrize(
    'key, message',
    [
        ('optim_wraper.type', "did you mean 'optim_wrapper'"),
        ('models', "did you mean 'model'"),
        ('model.a.5.x', 'is a list of 2'),
        ('model.a.x', 'is a list of 2'),
        ('model.width.x.y', 'is 3, it has no key'),
        ('max_epoch', 'no key of the config'),
    ],
)
def test_an_override_that_goes_nowhere_is_refused(key, message):
    cfg = dict(model=dict(a=[dict(x=1), 2], width=3, clip=None))
    with pytest.raises(ConfigError, match=message):
        check_overrides(cfg, {key: 1})


@pytest.mark.parametrize(
    'key',
    [
        'randomness.seed',
        'model.a.0.x',
        'model.clip.norm',
        'model.fresh',
        'resume',
        'strategy.type',  # of a FlexibleRunner
    ],
)
def test_an_override_that_fits_passes(key):
    cfg = dict(model=dict(a=[dict(x=1), 2], width=3, clip=None))
    check_overrides(cfg, {key: 1})


def test_an_override_of_a_variable_that_is_used_up_is_told(monkeypatch):
    said = []
    monkeypatch.setattr(overrides, 'print_log', lambda line, *_: said.append(line))
    cfg = dict(
        optim_wrapper=dict(optimizer=dict(lr=0.004)),
        train_dataloader=dict(dataset=dict(pipeline=[dict(type='A')])),
        base_lr=0.004,
        train_pipeline=[dict(type='A')],
        test_pipeline=[],
    )
    check_overrides(cfg, {'optim_wrapper.optimizer.lr': 1, 'test_pipeline': []})
    assert not said
    check_overrides(cfg, {'base_lr': 1, 'train_pipeline.0.type': 'B'})
    assert [line.rpartition(' ')[2] for line in said] == [
        'optim_wrapper.optimizer.lr',
        'train_dataloader.dataset.pipeline',
    ]


def test_a_misspelt_top_level_key_is_refused():
    for cfg in (dict(custom_hook=[]), dict(custom_hook=1, custom_hooks=[])):
        with pytest.raises(ConfigError, match="did you mean 'custom_hooks'"):
            check_top_level(cfg)
    with pytest.raises(ConfigError, match="did you mean 'val_evaluator'"):
        check_top_level(dict(val_evaluator1={}))
    check_top_level(dict(custom_pipeline=1, custom_hooks=[]))
    own = dict(type='EMAHook')
    check_top_level(dict(custom_hook=own, custom_hooks=[own]))
    check_top_level(dict(val_evaluator1={}, val_evaluator=[{}]))
    hooks = dict(checkpoint={}, checkpoint2=dict(type='CheckpointHook'))
    check_top_level(dict(default_hooks=hooks))


def test_only_config_errors_are_one_line_once_training_runs():
    assert one_line(ConfigError('a\n b'), started=True) == 'a b'
    assert one_line(FileNotFoundError('x'), started=True) is None
    assert one_line(FileNotFoundError('x'), started=False) == 'x'
    assert one_line(RuntimeError('shape mismatch'), started=False) is None


def test_a_toolbox_that_does_not_import_is_named_with_the_remedy(monkeypatch):
    code = compile('class Bert(None): pass', 'language_model.py', 'exec')
    module = dict(__name__='mmpretrain.models.multimodal.language_model')
    with pytest.raises(TypeError) as raised:
        exec(code, module)
    seen = dict(error=raised.value, started=False, cfg=Config(dict(model=dict())))
    monkeypatch.setattr('kd_mm.utils.origin.version', lambda name: '4.53.3')
    told = one_line(**seen)
    assert told.startswith(f'{module["__name__"]} cannot be imported: TypeError: ')
    assert 'transformers' not in told
    monkeypatch.setattr('kd_mm.utils.origin.version', lambda name: '5.17.0')
    assert 'transformers 5.17.0 is installed' in one_line(**seen)
    assert "pip install 'transformers<5'" in one_line(**seen)


def test_resume_command_drops_an_older_checkpoint():
    argv = ['train.py', '--resume', 'a.pth', 'c.py', '--amp', '--resume']
    assert _without_resume(argv) == ['train.py', 'c.py', '--amp']


def test_an_interruption_waits_for_a_checkpoint_that_is_being_saved():
    session, done = Session(), []

    def save():
        signal.raise_signal(signal.SIGTERM)
        done.append('saved')

    with pytest.raises(SystemExit) as stopped, session:
        session._unbroken(save)()
    assert done == ['saved'] and stopped.value.code == 128 + signal.SIGTERM


def test_workers_that_end_with_the_run_do_not_speak_of_damaged_checkpoints(
    monkeypatch, capsys
):
    """``timeout`` and ``scancel`` signal the whole group; PyTorch raises for each."""

    def died(*_):
        raise RuntimeError('DataLoader worker is killed by signal: Terminated')

    def find(folder, found, trust):
        signal.raise_signal(signal.SIGCHLD)
        return 'epoch_2.pth'

    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr('kd_mm.utils.session.find_own', find)
    with pytest.raises(SystemExit), Session() as session:
        session.work_dir, session._trains = 'work', True
        signal.signal(signal.SIGCHLD, died)  # as a loader with workers does
        signal.raise_signal(signal.SIGTERM)
    assert 'stopped by SIGTERM; epoch_2.pth can be resumed' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGCHLD) is before


def finish(process, seconds=120):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_names_the_checkpoint_to_resume(toy, start, number):
    work = toy / 'work'
    options = ('--work-dir', work, '--cfg-options', 'train_cfg.max_epochs=10000')
    process = start('train.py', toy / 'plain.py', *options)
    limit = time.time() + 300
    while not (work / 'last_checkpoint').exists() and time.time() < limit:
        time.sleep(0.1)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number, err[-2000:]
    assert 'can be resumed' in err.splitlines()[-1] and '--resume' in err
    assert 'Traceback' not in err


@pytest.mark.dist
def test_dist_train_and_dist_test_on_cpu_processes(toy, start):
    work = toy / 'work'
    write_teacher(toy)
    teacher = ('--teacher', toy / 'wide.py', '--teacher-checkpoint', toy / 'wide.pth')
    options = ('--method', 'fitnet', '--work-dir', work)
    process = start('dist_train.sh', toy / 'plain.py', 2, *teacher, *options)
    code, out, err = finish(process)
    assert code == 0, err[-2000:]
    if not torch.cuda.is_available():
        assert 'backend gloo' in out + err
    process = start(
        'dist_test.sh',
        *(work / 'plain.py', work / 'epoch_1.pth', 2),
        *('--work-dir', toy / 'test'),
    )
    code, _, err = finish(process)
    assert code == 0, err[-2000:]


@pytest.mark.dist
def test_dist_train_says_a_mistake_once(toy, start):
    process = start(
        'dist_train.sh',
        *(toy / 'distilled.py', 2, '--work-dir', toy / 'work'),
        *('--cfg-options', 'model.links.fpn.student=nekc'),
    )
    code, _, err = finish(process)
    assert code != 0
    assert err.count('\nerror: ') + err.startswith('error: ') == 1
    assert not (toy / 'work').exists()


def test_dist_train_checks_its_arguments(toy, start):
    for arguments, message in (
        (['no.py', 2], 'error: no.py does not exist'),
        ([toy / 'plain.py', 'two'], 'must be a number'),
        ([toy / 'plain.py'], 'usage'),
    ):
        code, _, err = finish(start('dist_train.sh', *arguments))
        assert code == 2 and message in err


def test_rank_0_tells_what_is_wrong_before_torchrun_ends_it(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr('kd_mm.utils.session.time.sleep', waited.append)
    with pytest.raises(SystemExit) as exit_info, Session():
        raise ConfigError('a typo')
    assert exit_info.value.code == 2 and waited and waited[0] >= 10
    assert capsys.readouterr().err == 'error: rank 1: a typo\n'


def test_rank_0_alone_makes_the_folder_that_it_removes(monkeypatch, tmp_path):
    """Another rank may be faster, and rank 0 would take the folder for older."""
    monkeypatch.setenv('RANK', '1')
    cfg = Config(dict(work_dir=str(tmp_path / 'work'), launcher='pytorch'))

    def meet(_):
        raise ConfigError('the processes meet here')

    monkeypatch.setattr('kd_mm.utils.cli.prepare_launcher', meet)
    with pytest.raises(SystemExit), Session() as session:
        session.build(cfg, trains=True)
    assert not (tmp_path / 'work').exists()
