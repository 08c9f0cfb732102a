"""Environments side by side, in worker processes or, without any, in a thread; an answer is never waited for in vain.

What an environment does depends on its seed and actions alone, so the number of workers changes no result.
"""

import contextlib
import math
import multiprocessing
import pickle
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np

from spot_jax.acting import answers
from spot_jax.system import workers
from spot_jax.system.errors import InputError

MakeEnv = Callable[[], gym.Env]
T = TypeVar('T')

TIMEOUT = 300.0  # seconds for one answer of an environment, unless the config says otherwise
POLL = 0.1  # seconds between two looks at whether a worker has ended, or this process is to stop
START = 120.0  # seconds, besides the environments' own, until a process has imported what it needs
END = 5.0  # seconds that an environment may take to close


class Steps(NamedTuple):
    """What one step of each of n environments came to."""

    observations: np.ndarray  # [n, O]; at an episode's end its last, not the next one's first
    rewards: np.ndarray  # [n], as the environment gives them
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool
    successes: np.ndarray  # [n] bool, the environment's info['success']


class WorkerRestartedError(Exception):
    """A worker had failed and was started again: the episodes of all environments are lost, reset them."""


class StoppedError(Exception):
    """An environment was waited for when this process was asked to stop: the pool is of no further use."""


class _Failure(NamedTuple):
    """What went wrong in an environment."""

    words: str
    is_input: bool = False  # it was refused: trying again would not help


class _Channel:
    """An end of a pipe between two threads, used as multiprocessing's connections are."""

    def __init__(self, inbox: queue.SimpleQueue, outbox: queue.SimpleQueue):
        self._inbox, self._outbox = inbox, outbox
        self._next: list[Any] = []

    def send(self, message: Any) -> None:
        self._outbox.put(message)

    def poll(self, timeout: float) -> bool:
        if not self._next:
            with contextlib.suppress(queue.Empty):
                self._next.append(self._inbox.get(timeout=timeout))
        return bool(self._next)

    def recv(self) -> Any:
        message = self._next.pop() if self._next else self._inbox.get()
        if message is EOFError:
            raise EOFError
        return message

    def close(self) -> None:
        self._outbox.put(EOFError)


def _channel() -> tuple[_Channel, _Channel]:
    there, back = queue.SimpleQueue(), queue.SimpleQueue()  # type: ignore[var-annotated]
    return _Channel(there, back), _Channel(back, there)


def _words(error: BaseException) -> str:
    if isinstance(error, answers.BadAnswerError | InputError):
        return str(error)
    name = type(error).__name__
    try:
        text = ' '.join(str(error).split())
    except Exception:  # an environment's own exception can raise anything
        text = ''
    return f'{name}: {text[:300]}' if text else name


def _attempt(function: Callable[..., T], *arguments: Any) -> tuple[T | None, _Failure | None]:
    """What a function that calls an environment returns, or what went wrong: it may raise anything, SystemExit too."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, _Failure(_words(error), isinstance(error, InputError))


def bounded(function: Callable[[], T], timeout: float) -> T:
    """What `function` returns, which calls an environment and runs in a thread.

    Raises InputError if that raises anything, or takes longer than `timeout` seconds (0: no bound).
    """
    ours, theirs = _channel()
    threading.Thread(target=lambda: theirs.send(_attempt(function)), daemon=True).start()
    end = time.monotonic() + timeout if timeout else math.inf
    while not ours.poll(POLL):
        if time.monotonic() > end:
            raise InputError(f'an environment fails ({_no_answer(timeout)})')
    result, failure = ours.recv()
    if failure is not None:
        raise InputError(failure.words if failure.is_input else f'an environment fails ({failure.words})')
    return result


def _no_answer(timeout: float) -> str:
    return f'no answer within {timeout:g} s, config.evaluation.timeout'


class _Envs:
    """The environments of one worker; `pulse` is called between any two answers of them."""

    def __init__(self, make_env: MakeEnv, count: int, pulse: Callable[[], None]):
        self._pulse = pulse
        self.envs: list[gym.Env] = []
        for _ in range(count):
            self.envs.append(make_env())
            pulse()

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        observations = []
        for i, seed in zip(indices, seeds, strict=True):
            observations.append(answers.of_reset(self.envs[i], self.envs[i].reset(seed=int(seed))))
            self._pulse()
        return np.stack(observations)

    def step(self, indices: np.ndarray, actions: np.ndarray) -> Steps:
        results = []
        for i, action in zip(indices, actions, strict=True):
            results.append(answers.of_step(self.envs[i], self.envs[i].step(action)))
            self._pulse()
        observations, *columns = zip(*results, strict=True)
        return Steps(np.stack(observations), *map(np.array, columns))

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _serve(
    pipe: Any, make_env: MakeEnv, count: int, interval: float, made: Callable[[_Envs], None] = lambda _: None
) -> None:
    """A worker: says (None, None) when it has its environments, then answers requests (method, arguments).

    With (result, None), or with (None, failure) and ends; until its pipe is closed. Says None in between, every
    `interval` seconds as long as there is progress.
    """
    last = time.monotonic()

    def pulse() -> None:
        nonlocal last
        if time.monotonic() - last > interval:
            pipe.send(None)
            last = time.monotonic()

    with contextlib.suppress(EOFError, OSError):  # the main process is gone, or done
        envs, failure = _attempt(_Envs, make_env, count, pulse)
        result: Any = None
        if envs is not None:
            made(envs)
        while True:
            pipe.send((result, failure))
            if envs is None or failure is not None:
                break
            method, arguments = pipe.recv()
            last = time.monotonic()
            result, failure = _attempt(getattr(envs, method), *arguments)
    if envs is not None:
        _attempt(envs.close)


def _serve_in_process(pipe: Any, pickled: bytes, count: int, interval: float) -> None:
    workers.follow_parent()
    pipe.send(None)  # what this process needs is imported: from here on it is the environment's own time
    _serve(pipe, lambda: pickle.loads(pickled)(), count, interval)


def _end(pool: list[tuple[Any, Any]], owing: dict[int, float]) -> None:
    """Ends all workers: those that owe an answer at once, the others when their environments are closed."""
    for w, (worker, pipe) in enumerate(pool):
        if w in owing and not isinstance(worker, threading.Thread):
            workers.kill(worker)
        with contextlib.suppress(OSError):
            pipe.close()  # what a worker waits for
    end = time.monotonic() + END
    for w, (worker, _) in enumerate(pool):
        if w not in owing:
            worker.join(max(0.0, end - time.monotonic()))
        if not isinstance(worker, threading.Thread):  # a thread cannot be ended; it is a daemon
            workers.kill(worker)


class EnvPool:
    """`num_envs` environments; with `num_workers` > 0, environment i lives in worker process i % num_workers.

    Without workers they live in one thread. Calls take the indices of the environments meant. An environment fails if
    it raises, answers nonsense, ends its process or does not answer within `timeout` seconds (0: no bound). Then its
    worker is ended and started again, with a warning and a `WorkerRestartedError`; if another one fails before
    `succeeded` has been called `patience` times, the pool raises InputError with the environment's own words.
    """

    def __init__(
        self, make_env: MakeEnv, num_envs: int, num_workers: int = 0, timeout: float = TIMEOUT, patience: int = 1
    ):
        self.stopping: Callable[[], bool] = lambda: False  # asked while an environment is waited for ...
        self.grace = 0.0  # ... and how many seconds it may still take then; after that, `StoppedError`
        self._make_env, self._num_envs, self._timeout, self._patience = make_env, num_envs, timeout, patience
        self._in_thread = num_workers == 0
        self._num_workers = min(num_workers, num_envs) or 1
        self._made: list[_Envs] = []  # in this process; the newest are in use
        self._owing: dict[int, float] = {}  # workers that owe an answer, and since when
        self._unmade: set[int] = set()  # workers that are still making their environments
        self._importing: set[int] = set()
        self._stop_at = math.inf
        self._successes = math.inf  # since the last failure
        self._workers: list[tuple[Any, Any]] = []
        self._end = weakref.finalize(self, _end, self._workers, self._owing)  # also when the program ends by an error
        for w in range(self._num_workers):
            self._workers.append(self._start(w))
        self._waiting: list[tuple[int, np.ndarray]] = []  # workers asked by `send`, and for which positions

    @property
    def envs(self) -> list[gym.Env]:
        """The environments themselves; only without workers."""
        self._await_made()
        return self._made[-1].envs

    def _start(self, w: int) -> tuple[Any, Any]:
        count, interval = len(range(w, self._num_envs, self._num_workers)), self._timeout / 4 or math.inf
        worker: Any
        ours: Any
        theirs: Any
        if self._in_thread:
            ours, theirs = _channel()
            arguments = theirs, self._make_env, count, interval, self._made.append
            worker = threading.Thread(target=_serve, args=arguments, daemon=True)
            worker.start()
        else:
            workers.refuse_a_rerun()
            try:
                pickled = pickle.dumps(self._make_env)
            except Exception as error:  # pickle raises many kinds
                raise InputError(
                    f'the environment cannot be sent to a worker process ({_words(error)}): '
                    'register it under the name of a class or a function, or take 0 workers'
                ) from error
            context = multiprocessing.get_context('spawn')  # a fork would copy JAX's threads' locks
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve_in_process, args=(theirs, pickled, count, interval), daemon=True)
            workers.start(worker)
            theirs.close()
            self._importing.add(w)
        self._unmade.add(w)
        self._owing[w] = time.monotonic()
        return worker, ours

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts an episode in each of n environments, with its seed; returns observations [n, O]."""
        return self._join(self._ask('reset', indices, seeds))

    def send(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Begins one step of n environments, with actions [n, A]; `receive` ends it."""
        self._waiting = self._ask('step', indices, actions)

    def receive(self) -> Steps:
        """What the step that `send` began came to, in its order."""
        return self._join(self._waiting)

    def succeeded(self) -> None:
        """Tells the pool that things go well: enough of this since a failure, and it is forgiven."""
        self._successes += 1

    def _ask(self, method: str, indices: np.ndarray, values: np.ndarray) -> list[tuple[int, np.ndarray]]:
        self._await_made()
        asked = []
        for w in range(self._num_workers):
            positions = np.flatnonzero(indices % self._num_workers == w)
            if len(positions):
                with contextlib.suppress(OSError):  # it has ended: there will be no answer either
                    self._workers[w][1].send((method, (indices[positions] // self._num_workers, values[positions])))
                self._owing[w] = time.monotonic()
                asked.append((w, positions))
        return asked

    def _await_made(self) -> None:
        self._check({w: failure for w in sorted(self._unmade) if (failure := self._answer(w)[1])})

    def _join(self, asked: list[tuple[int, np.ndarray]]) -> Any:
        results = {w: self._answer(w) for w, _ in asked}
        self._check({w: failure for w, (_, failure) in results.items() if failure})
        found = [result for result, _ in results.values()]
        order = np.argsort(np.concatenate([positions for _, positions in asked]))
        if isinstance(found[0], Steps):
            return Steps(*(np.concatenate(parts)[order] for parts in zip(*found, strict=True)))
        return np.concatenate(found)[order]

    def _answer(self, w: int) -> tuple[Any, _Failure | None]:
        """What a worker answers, or why it does not; raises StoppedError."""
        worker, pipe = self._workers[w]
        while True:
            if pipe.poll(POLL):
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    worker.join(END)
                    answer = self._ended(w)
                if answer is None:
                    self._importing.discard(w)
                    self._owing[w] = time.monotonic()
                    continue
                break
            self._check_stop()
            if not worker.is_alive() and not pipe.poll(0):
                answer = self._ended(w)
                break
            waited = time.monotonic() - self._owing[w]
            if self._timeout and waited > self._timeout + START * (w in self._importing):
                return None, _Failure(_no_answer(self._timeout))  # it still owes it: it will be killed, not asked
        self._owing.pop(w, None)
        self._unmade.discard(w)
        return answer

    def _ended(self, w: int) -> tuple[None, _Failure]:
        status = getattr(self._workers[w][0], 'exitcode', None)
        if status == workers.NO_GUARD and w in self._importing:
            return None, _Failure(workers.missing_guard(), is_input=True)
        return None, _Failure(f'its process ended with status {status}')

    def _check_stop(self) -> None:
        if self.stopping():
            self._stop_at = min(self._stop_at, time.monotonic() + self.grace)
        if time.monotonic() >= self._stop_at:
            raise StoppedError

    def _check(self, failures: dict[int, _Failure]) -> None:
        """Raises what failures come to, after starting those workers again."""
        if not failures:
            return
        failure = min(failures.values(), key=lambda f: not f.is_input)
        if failure.is_input:
            raise InputError(failure.words)
        if self._successes < self._patience:
            raise InputError(f'an environment fails again and again ({failure.words})')
        self._successes = 0
        print(f'warning: an environment failed ({failure.words}); it is started again', file=sys.stderr)
        for w in failures:
            worker, pipe = self._workers[w]
            if w not in self._owing:
                worker.join(END)  # it closes its environments
            if not self._in_thread:  # a thread that goes on is left behind
                workers.kill(worker)
            pipe.close()
            self._workers[w] = self._start(w)
        raise WorkerRestartedError

    def close(self) -> None:
        """Closes the environments and ends the workers."""
        self._end()
