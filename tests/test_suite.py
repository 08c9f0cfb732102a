"""Suites: what runs, what is skipped, what fails without ending the rest. A command pretends to make the runs."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from made_up import make_run
from tiny import tiny

from experiments import antmaze, mujoco, pointmaze
from experiments import suite as experiment
from spot_jax import main
from spot_jax.methods import METHODS
from spot_jax.run import config_files, jobs, suite
from spot_jax.storage.folder import held
from spot_jax.system.errors import InputError

PRETENDS = """
import os, pathlib, shutil, signal, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))
here = pathlib.Path(__file__).parent
with (here / 'started').open('a') as file:
    file.write(workdir.name + '\\n')
if workdir.name == 'crash' and not (here / 'mended').exists():
    os.kill(os.getpid(), signal.SIGSEGV)
if workdir.name == 'bad' and not (here / 'mended').exists():
    print('error: nothing\\x1b here\\n')
    sys.exit(2)
if workdir.name == 'slow':
    def stop(number, frame):
        (here / 'checkpoint').touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    (here / 'ready').touch()
    time.sleep(60)
shutil.copytree(here / 'runs' / workdir.name, workdir, dirs_exist_ok=True)
sys.exit(3 if workdir.name == 'diverged' else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a command that pretends to run, and what its runs come to."""
    (tmp_path / 'one.py').write_text('from tiny import tiny\nget_config = tiny\n')
    (tmp_path / 'pretends.py').write_text(PRETENDS)
    monkeypatch.setattr(suite, 'COMMAND', [sys.executable, str(tmp_path / 'pretends.py')])
    monkeypatch.setattr(suite, 'POLL', 0.02)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cli(place, names, *arguments):
    found = {name: ['--config=one.py'] for name in names}
    (place / 'suite.py').write_text(f'def get_suite(name="a"):\n    return {found!r}\n')
    return main.cli(['main', '--config=suite.py', '--workdir=out', *arguments])


def started(place):
    lines = (place / 'started').read_text().split() if (place / 'started').exists() else []
    (place / 'started').unlink(missing_ok=True)
    return lines


def test_what_fails_does_not_end_the_suite_and_what_is_finished_is_skipped(place, capsys):
    names = ['good', 'crash', 'bad', 'diverged', 'last']
    for name in names:
        make_run(place / 'runs' / name, [0.0, 0.5], diverged=[0, 1] if name == 'diverged' else ())
    assert cli(place, names) == 1
    assert started(place) == names
    work, lines = [], []
    for line in capsys.readouterr().out.splitlines():
        (work if ' is at work' in line else lines).append(line)
    assert work == [f'{name} is at work, run {i} of 5: out/{name}.log' for i, name in enumerate(names, 1)]
    assert [line.split(';')[0] for line in lines] == [
        'good finished',
        'crash failed with status -11 (it printed nothing',
        r'bad failed with status 2 (error: nothing\x1b here',
        'diverged finished, all of its members diverged',
        'last finished',
        '3 of 5 runs finished',
    ]
    assert '; 4 of 5 runs have ended, about 0:00:0' in lines[3]
    (place / 'mended').touch()
    assert cli(place, names) == 0
    assert started(place) == ['crash', 'bad']
    assert cli(place, names) == 0
    assert started(place) == []
    assert cli(place, names, '--config.offline.steps=60', '--config.part=1,2') == 0  # longer: none is finished
    assert started(place) == ['crash', 'diverged']
    with (place / 'out' / 'good.log').open('rb') as log:
        assert log.read() == b''


def test_a_log_that_cannot_be_written_ends_one_run(place, capsys):
    make_run(place / 'runs' / 'good', [0.0, 0.5])
    (place / 'out' / 'bad.log').mkdir(parents=True)
    long = 'x' * 300
    assert cli(place, ['bad', long, 'good']) == 1
    assert started(place) == ['good']
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith('bad failed: out/bad.log: Is a directory; 1 of 3 runs have ended')
    assert second.startswith(f'{long} failed: out/{long}')
    assert 'File name too long; 2 of 3' in second
    assert last == '1 of 3 runs finished'


def test_what_is_not_made_is_not_time_that_was_spent(monkeypatch):
    now = iter([0.0, 10.0])
    monkeypatch.setattr(suite.time, 'monotonic', lambda: next(now))
    progress = suite.Progress(0, 1000)
    progress.update(100)
    progress.drop(500)
    assert progress.left() == 'about 0:00:40'  # 400 at ten a second
    progress.update(-150)  # a run goes on from a checkpoint, and loses what came after it
    assert progress.left() == 'an unknown time'
    progress.close()


def test_a_suite_that_ends_by_an_error_of_its_own_stops_its_run(place, monkeypatch):
    def tell(self, text):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(suite.Progress, 'tell', tell)
    processes, start = [], suite.Suite._start

    def spy(self, *arguments):
        start(self, *arguments)
        processes.append(self.process)

    monkeypatch.setattr(suite.Suite, '_start', spy)
    assert cli(place, ['slow']) == 1
    assert processes[0].wait(60) != 0


def test_a_signal_is_passed_on_once_and_ends_the_suite(place, capsys):
    def send():
        while not (place / 'ready').exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=send, daemon=True).start()
    make_run(place / 'runs' / 'last', [0.0, 0.5])
    assert cli(place, ['slow', 'last']) == 143
    assert (place / 'checkpoint').exists()
    assert started(place) == ['slow']
    assert capsys.readouterr().out.splitlines() == [
        'slow is at work, run 1 of 2: out/slow.log',
        'stopped: the same command goes on',
    ]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_another_process_has_is_waited_for(place, capsys, monkeypatch):
    make_run(place / 'runs' / 'good', [0.0, 0.5])
    (place / 'out' / 'good').mkdir(parents=True)
    release = threading.Event()

    def hold():
        with held(place / 'out' / 'good'):
            held_now.set()
            release.wait(10)

    held_now = threading.Event()
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held_now.wait(10)
    tell = suite.Progress.tell

    def told(self, text):
        tell(self, text)
        release.set()

    monkeypatch.setattr(suite.Progress, 'tell', told)
    assert cli(place, ['good']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'good: another process is at it, waiting'
    assert lines[-1] == '1 of 1 runs finished'


def test_a_run_that_another_suite_takes_first_is_waited_for(place, capsys, monkeypatch):
    """It takes the folder just before this suite's own process would, which then ends with status 2."""
    make_run(place / 'runs' / 'bad', [0.0, 0.5])
    (place / 'out' / 'bad').mkdir(parents=True)
    taken, stack = [], contextlib.ExitStack()
    start = suite.Suite._start

    def late(self, job, log):
        if not taken:
            taken.append(stack.enter_context(held(job.workdir)))
        start(self, job, log)

    def told(self, text, tell=suite.Progress.tell):
        tell(self, text)
        if 'waiting' in text:
            (place / 'mended').touch()
            stack.close()

    monkeypatch.setattr(suite.Suite, '_start', late)
    monkeypatch.setattr(suite.Progress, 'tell', told)
    assert cli(place, ['bad']) == 0
    assert started(place) == ['bad', 'bad']
    assert 'bad: another process is at it, waiting' in capsys.readouterr().out.splitlines()


def test_the_last_line_of_an_endless_log_and_of_none(tmp_path):
    assert suite._last_line(Path('/dev/zero')).strip('\0') == ''
    assert suite._last_line(tmp_path / 'gone.log') == 'its log cannot be read: No such file or directory'


def test_how_far_a_run_is(tmp_path):
    config = make_run(tmp_path / 'run', [0.0, 0.5], finished=False)
    job = jobs.Job('run', [], config, tmp_path / 'run')
    assert jobs.total(job) == 60  # 20 of the CVAE
    assert jobs.done(job) == 40
    assert not jobs.is_finished(job)
    assert jobs.done(job._replace(workdir=tmp_path)) == 0
    restored = tiny(**{'cvae.restore': 'a', 'online.steps': 10, 'online.updates_per_step': 3})
    assert jobs.total(job._replace(config=restored)) == 40 + 30
    rows = (tmp_path / 'run' / 'metrics.csv').read_text().splitlines()
    (tmp_path / 'run' / 'metrics.csv').write_text('\n'.join([*rows, rows[-1].replace('offline,20', 'online,58'), '']))
    assert jobs.done(job._replace(config=restored)) == 58
    finished = make_run(tmp_path / 'finished', [0.0, 0.5])
    job = jobs.Job('finished', [], finished, tmp_path / 'finished')
    assert jobs.is_finished(job)
    assert jobs.is_finished(job._replace(config=tiny(**{'evaluation.timeout': 3.0})))  # changes no result
    for changes in ({'tau': 0.1}, {'offline.steps': 60}):
        assert not jobs.is_finished(job._replace(config=tiny(**changes)))
    results = tmp_path / 'finished' / 'results.json'
    results.write_text(results.read_text().replace('"gradient_steps": 40', '"gradient_steps": null'))
    assert not jobs.is_finished(job)  # the run itself tells of it


def test_options_that_some_runs_do_not_read_are_named_once(place, capsys):
    found = {'a': ['--config=one.py'], 'b': ['--config=one.py', '--config.method=bc'], 'c': ['--config=one.py']}
    (place / 'suite.py').write_text(f'def get_suite(name="a"):\n    return {found!r}\n')
    main.jobs(['main', '--config=suite.py', '--config.regularizer.weight=0.3'])
    assert capsys.readouterr().err == 'without effect in b: regularizer.weight (method is bc)\n'


def test_suites_of_the_repository():
    found = main.jobs(['main', '--config=experiments/suite.py:pointmaze', '--config.offline.steps=8', '--workdir=w'])
    assert len(found) == 3 * len(METHODS)
    name, words, config, workdir = found[1]
    assert (name, str(workdir)) == ('umaze/bc', 'w/umaze/bc')
    assert words == [
        '--config=experiments/pointmaze.py:umaze,bc',
        '--config.seeds=0,1,2,3',
        '--config.offline.steps=8',
        '--workdir=w/umaze/bc',
    ]
    assert (config.method, config.dataset_id) == ('bc', 'spot_jax/pointmaze/umaze-v0')
    assert config.offline.steps == 8
    for name, module in (('pointmaze', pointmaze), ('antmaze', antmaze), ('mujoco', mujoco)):
        assert sorted(experiment.TASKS[name]) == sorted(module.PRESETS)
    for name in ('antmaze', 'mujoco'):  # every method's presets are valid configs of every task
        assert len(main.jobs(['main', f'--config=experiments/suite.py:{name}'])) == len(experiment.TASKS[name]) * 13
    assert [job[0] for job in main.jobs(['main', '--config=experiments/suite.py'])] == [
        'umaze/spot',
        'umaze/bc',
        'umaze/td3_bc',
    ]
    with pytest.raises(InputError, match='is a suite'):
        config_files.read_config('experiments/suite.py')


@pytest.mark.parametrize(
    ('returns', 'words'),
    [
        ('[]', 'must return a dict of runs'),
        ('{}', 'must return a dict of runs'),
        ("{'/a': []}", "a run is called '/a'"),
        ("{'b/../../a': []}", 'must be the name of a folder'),
        ("{'a': '--config=one.py'}", "of the run 'a', get_suite must return a list of words"),
        ("{'a': []}", 'a: --config=FILE.py[:PRESET] is needed'),
        ("{'a': ['--config=one.py', '--help']}", 'a: its arguments are those of a run in one process'),
        ("{'a': ['--config=one.py', '--distributed=auto']}", 'a: its arguments are those of a run in one process'),
        ("{'a': ['--config=one.py', '--config.tao=1']}", 'a: config.tao: there is no such field'),
        ("{'a': ['--config=one.py'], './a': ['--config=one.py']}", 'is the folder of several runs'),
        ('1 / 0', 'line 1: ZeroDivisionError'),
    ],
)
def test_a_bad_suite_is_one_line_before_any_run(place, capsys, returns, words):
    (place / 'suite.py').write_text(f'get_suite = lambda: {returns}\n')
    assert main.cli(['main', '--config=suite.py', '--workdir=out']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (place / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--distributed=auto', '--config.part=0,2'], 'give one of them'),
        (['--distributed=nowhere'], '--distributed=nowhere: must be auto, or COORDINATOR:PORT,HOSTS,HOST'),
        (['--config.part=1,0'], 'of 0 parts, numbered from 0, there is no number 1'),
        (['--config.part=2,2'], 'of 2 parts, numbered from 0, there is no number 2'),
        (['--config.tau=x'], 'config.tau'),
        (['--config.method=iql'], 'config.method: a suite names it for each of its runs, in suite.py'),
        (['--config.dataset_id=x'], 'config.dataset_id: a suite names it'),
    ],
)
def test_bad_arguments_of_a_suite(place, capsys, arguments, words):
    assert cli(place, ['good'], *arguments) == 2
    assert words in capsys.readouterr().err
    assert started(place) == []
