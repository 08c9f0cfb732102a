"""Environments that raise, hang, exit or answer nonsense: a run goes on, or ends in one line and can be resumed."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from moody import FOREVER, OBSERVATION, Moody, hang
from test_main import assert_same_run
from tiny import tiny

from spot_jax.acting import answers, env_pool, environments, evaluation
from spot_jax.acting.env_pool import EnvPool, StoppedError, WorkerRestartedError
from spot_jax.acting.tasks import TASKS
from spot_jax.population.program import PhaseState
from spot_jax.recipes import generate
from spot_jax.run import evaluations, finetuning, training
from spot_jax.run.build import build
from spot_jax.run.config import members
from spot_jax.run.ring_files import RingFiles
from spot_jax.run.workdir import read_run
from spot_jax.system import workers
from spot_jax.system.errors import InputError

ZERO = np.zeros(1, int)


def play(pool):
    """A step of the first environment."""
    pool.reset(ZERO, ZERO)
    pool.send(ZERO, np.zeros((1, 1)))
    return pool.receive()


def running():
    """The process groups of processes that are more than an exit status."""
    groups = set()
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            state, _, group, *_ = path.read_text().rpartition(')')[2].split()
            groups |= {int(group)} if state != 'Z' else set()
    return groups


def assert_ending(groups):
    """The process groups end: what is killed is not gone at once, and a worker's own children are not waited for."""
    end = time.monotonic() + 10
    while running() & set(groups):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'reward': None}, 'its reward is None; expected one finite number'),
        ({'reward': float('nan')}, 'its reward is nan'),
        ({'reward': np.float64('inf')}, 'its reward is inf'),
        ({'reward': 1e39}, 'its reward is 1e\\+39'),  # infinite in float32
        ({'reward': '1'}, "its reward is '1'"),
        ({'reward': np.zeros(2)}, r'its reward is array\(\[0., 0.\]\)'),
        ({'observation': None}, r'its observation is None; expected numbers of shape \(2,\)'),
        ({'observation': np.full(2, np.nan)}, 'its observation contains NaN'),
        ({'observation': np.array([0, 1e39])}, 'its observation contains NaN or infinity'),
        ({'observation': np.zeros(3)}, r'expected numbers of shape \(2,\)'),
        ({'observation': np.array(['a', 'b'])}, 'its observation is'),
        ({'terminated': None}, 'its terminated is None; expected True or False'),
        ({'terminated': 'False'}, "its terminated is 'False'"),
        ({'truncated': 2}, 'its truncated is 2'),
        ({'truncated': np.zeros(2, bool)}, 'its truncated is'),
        ({'info': None}, 'its info is None; expected a dict'),
        ({'info': {'success': np.zeros(3)}}, r"its info\['success'\] is"),
    ],
)
def test_nonsense_is_told_of(changes, words):
    fields = {'observation': OBSERVATION, 'reward': 0.0, 'terminated': False, 'truncated': False, 'info': {}} | changes
    with pytest.raises(answers.BadAnswerError, match=words):
        answers.of_step(Moody('', None), tuple(fields.values()))


def test_what_is_as_good_as_an_answer_is_taken():
    step = answers.of_step(Moody('', None), ([1, 2], np.array([0.5]), np.bool_(True), 0, {'success': 1.0}))
    assert (step.reward, step.terminated, step.truncated, step.success) == (0.5, True, False, True)
    np.testing.assert_array_equal(step.observation, [1, 2])
    for function, answer in ((answers.of_step, (OBSERVATION, 0.0, False, {})), (answers.of_reset, OBSERVATION)):
        with pytest.raises(answers.BadAnswerError, match=r'returned .*; expected'):
            function(Moody('', None), answer)


class SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError


def throw(error):
    raise error


@pytest.mark.parametrize(
    ('mood', 'words'),
    [
        (partial(throw, ValueError('step broke\nsecond line')), 'ValueError: step broke second line'),
        (partial(sys.exit, 3), 'SystemExit: 3'),
        (partial(throw, KeyboardInterrupt()), 'KeyboardInterrupt'),
        (partial(throw, BrokenPipeError('of its own')), 'BrokenPipeError: of its own'),
        (partial(throw, SpeechlessError()), 'SpeechlessError'),
        (hang, 'no answer within 0.3 s'),
    ],
)
@pytest.mark.parametrize('place', ['constructor', 'reset', 'step'])
def test_failures_without_workers(mood, words, place, capsys):
    """The first one is survived, the second one ends it with the environment's own words."""
    pool = EnvPool(partial(Moody, place, mood), 1, timeout=0.3)
    with pytest.raises(WorkerRestartedError):
        play(pool)
    with pytest.raises(InputError, match=f'again and again .{words}'):
        play(pool)
    assert capsys.readouterr().err.count('\n') == 1
    pool.close()


def test_failures_are_forgiven_after_a_while():
    moods = iter([None, ValueError, None, None, ValueError, None, ValueError])

    def mood():
        if (error := next(moods)) is not None:
            raise error

    pool = EnvPool(partial(Moody, 'step', mood), 1, patience=2)
    play(pool)
    with pytest.raises(WorkerRestartedError):
        play(pool)
    for _ in range(2):
        play(pool)
        pool.succeeded()
    with pytest.raises(WorkerRestartedError):
        play(pool)
    play(pool)
    pool.succeeded()
    with pytest.raises(InputError, match='again and again'):
        play(pool)
    pool.close()


def test_slow_is_not_hanging():
    """Three environments of one worker may together take longer than one is allowed to."""
    pool = EnvPool(partial(Moody, 'step', partial(time.sleep, 0.3)), 3, timeout=0.6)
    pool.reset(np.arange(3), np.zeros(3, int))
    pool.send(np.arange(3), np.zeros((3, 1)))
    assert len(pool.receive().rewards) == 3
    pool.close()


def test_a_wish_to_stop_ends_the_waiting_after_some_grace():
    pool = EnvPool(partial(Moody, 'step', hang), 1)
    pool.reset(ZERO, ZERO)
    pool.stopping, pool.grace, start = lambda: True, 0.3, time.monotonic()
    pool.send(ZERO, np.zeros((1, 1)))
    with pytest.raises(StoppedError):
        pool.receive()
    assert 0.3 <= time.monotonic() - start < 3
    evaluator = evaluation.Evaluator(partial(Moody, 'reset', hang), 1, 1, 0, False)
    assert evaluator(lambda observations, *_: np.zeros_like(observations), lambda: True) is None
    evaluator.close()
    pool.close()


def test_hanging_close_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(env_pool, 'END', 0.3)
    for count in (0, 1):
        pool = EnvPool(partial(Moody, 'close', hang), 1, count)
        play(pool)
        worker = pool._workers[0][0]
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < 3
        assert count == 0 or not worker.is_alive()


def test_a_runs_evaluations_close_their_environments_in_the_thread_that_made_them(monkeypatch):
    """Linux kills a worker when the thread that started it ends: it would close nothing any more."""
    threads = []

    class Evaluator:
        def __init__(self, *arguments):
            threads.append(threading.get_ident())

        def __call__(self, act, cancelled):
            return None

        def close(self):
            threads.append(threading.get_ident())

    monkeypatch.setattr(evaluations, 'Evaluator', Evaluator)
    config = tiny(seeds=(0,))
    arguments = config, members(config), object, None, TASKS['pointmaze'], build(config, 4, 2).algorithm
    with evaluations.Evaluations(*arguments, None, None, {}, None) as found:
        found._submit('offline', 2, PhaseState(None, None, None, None), {})
        found._pending[0].future.result()
    made, closed = threads
    assert made == closed != threading.get_ident()


def test_hanging_process_is_killed_and_started_again(capsys):
    """With what it has started; nothing is left in the end."""
    pool = EnvPool(partial(Moody, 'step', partial(subprocess.run, ['sleep', str(FOREVER)])), 1, 1, timeout=0.5)
    pids = []
    for error, words in ((WorkerRestartedError, None), (InputError, 'no answer within 0.5 s')):
        pids.append(pool._workers[0][0].pid)
        with pytest.raises(error, match=words):
            play(pool)
    pool.close()
    assert len(set(pids)) == 2
    assert not multiprocessing.active_children()
    assert_ending(pids)
    assert 'no answer within 0.5 s' in capsys.readouterr().err


KILLED = """
import sys, time
from functools import partial
import numpy as np
from spot_jax.acting.env_pool import EnvPool
sys.path.insert(0, {tests!r})
from moody import Moody, hang
ZERO = np.zeros(1, int)
if __name__ == '__main__':
    pool = EnvPool(partial(Moody, 'step', hang), 1, 1)
    pool.reset(ZERO, ZERO)
    pool.send(ZERO, np.zeros((1, 1)))
    print(pool._workers[0][0].pid, flush=True)
    pool.receive()
"""


def test_killed_parent_leaves_no_worker(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert pid in running()
    parent.kill()
    parent.wait()
    assert_ending([pid])


NO_GUARD = """
from pathlib import Path
import gymnasium
import numpy as np
from spot_jax.acting.env_pool import EnvPool
from spot_jax.system.errors import exit_status
with Path({log!r}).open('a') as file:
    file.write('x')
def body():
    EnvPool(gymnasium.Env, 1, 1).reset(np.zeros(1, int), np.zeros(1, int))
raise SystemExit(exit_status(body))
"""


def test_script_without_a_main_guard_is_refused(tmp_path, monkeypatch):
    script, log = tmp_path / 'script.py', tmp_path / 'log'
    script.write_text(NO_GUARD.format(log=str(log)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    words = f"error: {script} runs again in each worker process: put what it does below `if __name__ == '__main__':`\n"
    assert (done.returncode, done.stderr) == (2, words)
    assert log.read_text() == 'xx'  # once more, in the worker
    # A training, or what makes a dataset, is refused before it begins.
    monkeypatch.setattr(multiprocessing.current_process(), '_inheriting', True, raising=False)
    monkeypatch.setattr(workers.os, '_exit', lambda status: throw(SystemExit(status)))
    for function in (training.run, generate):
        with pytest.raises(SystemExit, match=str(workers.NO_GUARD)):
            function(None, '')


def test_signals_are_handled_only_during_a_run_and_only_in_the_main_thread(monkeypatch):
    during, errors = [], []

    class Job:
        def __init__(self, *_):
            pass

        def handle_signal(self, number, frame):
            signal.signal(number, signal.SIG_DFL)

        def go(self):
            during.append(signal.getsignal(signal.SIGTERM))
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)
            if errors:
                raise errors.pop()
            return 0

    monkeypatch.setattr(training, 'Run', Job)
    for name in ('validate', 'require_device'):
        monkeypatch.setattr(training, name, lambda *arguments: None)
    monkeypatch.setattr(training.footprint, 'check', lambda config: None)
    monkeypatch.setattr(training.folder, 'held', lambda workdir: contextlib.nullcontext())
    original = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to be ignored
    before = [signal.getsignal(number) for number in workers.STOPS]
    assert training.run(tiny(), 'run') == 0
    assert during.pop().__name__ == 'handle_signal'
    errors.append(InputError('x'))
    with pytest.raises(InputError):
        training.run(tiny(), 'run')
    during.clear()
    thread = threading.Thread(target=training.run, args=(tiny(), 'run'))
    thread.start()
    thread.join()
    assert during == [before[1]]
    assert [signal.getsignal(number) for number in workers.STOPS] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, original)


class Afflicted(gym.Wrapper):
    """An environment that does what `mood` says at each step."""

    def __init__(self, env, mood):
        super().__init__(env)
        self.mood = mood

    def step(self, action):
        self.mood()
        return self.env.step(action)


@pytest.fixture
def afflict(monkeypatch):
    """Makes the environments of runs do what is given at each step; in threads, also where workers are asked for."""
    original, evaluator = environments.maker, evaluation.Evaluator

    def affected(mood):
        wrapped = lambda make: lambda: Afflicted(make(), mood)
        monkeypatch.setattr(environments, 'maker', lambda *arguments: wrapped(original(*arguments)))

    def in_thread(*arguments):
        *rest, _, timeout = arguments
        return evaluator(*rest, 0, timeout)

    monkeypatch.setattr(evaluations, 'Evaluator', in_thread)
    return affected


def count_to(number, mood):
    """Does `mood` from the `number`-th call on."""
    calls = []

    def counted():
        calls.append(1)
        if len(calls) >= number:
            mood()

    return counted


def stop_and_hang():
    os.kill(os.getpid(), signal.SIGTERM)
    hang()


@pytest.mark.usefixtures('data')
def test_offline_run_ends_with_a_checkpoint_and_resumes_to_the_same(finished, tmp_path, afflict):
    """Three times, at its first evaluation, which training does not wait for: each time the policy is that of then."""
    config = tiny(**{'evaluation.workers': 1, 'evaluation.timeout': 60.0})
    for mood, words in ((partial(throw, OSError('moody')), 'moody'), (hang, 'no answer'), (stop_and_hang, '')):
        afflict(count_to(50, mood))
        config.evaluation.timeout = 3.0 if mood is hang else 60.0  # it may be changed on the way
        if words:
            with pytest.raises(InputError, match=f'again and again .*{words}'):
                training.run(config, tmp_path)
        else:
            assert training.run(config, tmp_path) == 143
        saved = read_run(tmp_path)[1]
        assert saved['phase'] == 'offline'
        assert [item['step'] for item in saved.get('pending', {}).values()] in ([], [20])
        assert not (tmp_path / 'results.json').exists()
    afflict(lambda: None)
    assert training.run(config, tmp_path) == 0
    assert_same_run(tmp_path, finished)


@pytest.mark.usefixtures('data')
def test_online_run_ends_with_a_checkpoint_and_nothing_bad_in_its_ring(finished, tmp_path, afflict, capfd, monkeypatch):
    config = tiny(**{'online.steps': 40, 'online.restore': str(finished), 'evaluation.episodes': 0})
    for number, mood, words in (
        (15, partial(throw, OSError('moody')), 'moody'),
        (9, partial(sys.exit, 3), 'SystemExit: 3'),
    ):
        afflict(count_to(number, mood))
        with pytest.raises(InputError, match=f'again and again .*{words}'):
            training.run(config, tmp_path)
        saved = read_run(tmp_path)[1]
        assert len(saved['ring_sha256']) == len(saved['ring_segments'])  # damage would be found
        ring = RingFiles(tmp_path / 'ring', saved['ring_segments']).load((2, 1), 40, 12)
        assert 0 < ring.count < 40
        assert np.isfinite(ring.rows).all()
    afflict(stop_and_hang)
    assert capfd.readouterr().err.count('\n') == 2
    monkeypatch.setattr(finetuning, 'GRACE', 0.2)
    assert training.run(config, tmp_path) == 143
    afflict(lambda: None)
    assert training.run(config, tmp_path) == 0
    assert json.loads((tmp_path / 'results.json').read_text())['members'][0]['status'] == 'completed'


@pytest.mark.usefixtures('data')
def test_environment_that_cannot_even_be_tried(tmp_path, monkeypatch):
    for mood, words in ((hang, 'no answer within 0.3 s'), (partial(sys.exit, 3), 'SystemExit: 3')):
        monkeypatch.setattr(environments, 'maker', lambda *arguments, mood=mood: partial(Moody, 'constructor', mood))
        with pytest.raises(InputError, match=words):
            training.run(tiny(**{'evaluation.timeout': 0.3}), tmp_path / 'run')
        assert not (tmp_path / 'run').exists()
