"""Environments side by side: stepped in this process, or shared out over worker processes.

What an environment does depends on its seed and actions alone, so the number of workers changes no result.
"""

import contextlib
import multiprocessing
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from spot_jax.errors import InputError

MakeEnv = Callable[[], gym.Env]


class Steps(NamedTuple):
    """What one step of each of n environments came to."""

    observations: np.ndarray  # [n, O]; at an episode's end its last, not the next one's first
    rewards: np.ndarray  # [n], as the environment gives them
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool
    successes: np.ndarray  # [n] bool, the environment's info['success']


class WorkerRestartedError(Exception):
    """A worker had failed and was started again: the episodes of all environments are lost, reset them."""


class _Envs:
    """Environments of one process."""

    def __init__(self, make_env: MakeEnv, count: int):
        self.envs = [make_env() for _ in range(count)]

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return np.stack([self.envs[i].reset(seed=int(seed))[0] for i, seed in zip(indices, seeds, strict=True)])

    def step(self, indices: np.ndarray, actions: np.ndarray) -> Steps:
        results = [self.envs[i].step(action) for i, action in zip(indices, actions, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        successes = [bool(info.get('success', False)) for info in infos]
        return Steps(np.stack(observations), *map(np.array, (rewards, terminated, truncated, successes)))

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _serve(pipe: Any, make_env: MakeEnv, count: int) -> None:
    """A worker: answers each request (method, arguments) with (result, error) until its pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the main process decides when to end
    try:
        envs = _Envs(make_env, count)
        while True:
            method, arguments = pipe.recv()
            pipe.send((getattr(envs, method)(*arguments), None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the main process is gone, or done
    except Exception as error:  # an environment can raise anything: the main process tells of it
        pipe.send((None, f'{type(error).__name__}: {error}'))


def _end_workers(workers: list[tuple[Any, Any]]) -> None:
    for process, pipe in workers:
        pipe.close()  # what a worker waits for
        process.join()


class EnvPool:
    """`num_envs` environments; with `num_workers` > 0, environment i lives in worker process i % num_workers.

    Calls take the indices of the environments meant. A worker that fails is started again once, with a warning and a
    `WorkerRestartedError`; at the next failure the pool raises InputError with the environment's own words.
    """

    def __init__(self, make_env: MakeEnv, num_envs: int, num_workers: int = 0):
        self._make_env, self._num_envs = make_env, num_envs
        self._num_workers = min(num_workers, num_envs)
        self._local = None if num_workers else _Envs(make_env, num_envs)
        self._workers = [self._start(w) for w in range(self._num_workers)]
        self._failed_before = False
        self._end = weakref.finalize(self, _end_workers, self._workers)  # also when the program ends by an error
        self._waiting: list[tuple[int, np.ndarray]] = []  # workers that owe an answer, and for which positions
        self._answer: Steps | None = None  # of the last `send`, when there are no workers

    @property
    def envs(self) -> list[gym.Env]:
        """The environments themselves; only without workers."""
        assert self._local is not None
        return self._local.envs

    def _start(self, worker: int) -> tuple[Any, Any]:
        context = multiprocessing.get_context('spawn')  # a fork would copy JAX's threads' locks
        ours, theirs = context.Pipe()
        count = len(range(worker, self._num_envs, self._num_workers))
        process = context.Process(target=_serve, args=(theirs, self._make_env, count), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts an episode in each of n environments, with its seed; returns observations [n, O]."""
        if self._local is not None:
            return self._local.reset(indices, seeds)
        return self._join(self._ask('reset', indices, seeds))

    def send(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Begins one step of n environments, with actions [n, A]; `receive` ends it."""
        if self._local is not None:
            self._answer = self._local.step(indices, actions)
        else:
            self._waiting = self._ask('step', indices, actions)

    def receive(self) -> Steps:
        """What the step that `send` began came to, in its order."""
        if self._local is not None:
            assert self._answer is not None
            return self._answer
        return self._join(self._waiting)

    def _ask(self, method: str, indices: np.ndarray, values: np.ndarray) -> list[tuple[int, np.ndarray]]:
        asked = []
        for w in range(self._num_workers):
            positions = np.flatnonzero(indices % self._num_workers == w)
            if len(positions):
                with contextlib.suppress(OSError):  # it has ended: there will be no answer either
                    self._workers[w][1].send((method, (indices[positions] // self._num_workers, values[positions])))
                asked.append((w, positions))
        return asked

    def _join(self, asked: list[tuple[int, np.ndarray]]) -> Any:
        answers, failures = [], {}
        for w, _ in asked:
            try:
                result, error = self._workers[w][1].recv()
            except (EOFError, OSError):
                self._workers[w][0].join()
                result, error = None, f'its process ended with status {self._workers[w][0].exitcode}'
            answers.append(result)
            if error:
                failures[w] = error
        if failures:
            self._restart(failures)
        order = np.argsort(np.concatenate([positions for _, positions in asked]))
        if isinstance(answers[0], Steps):
            return Steps(*(np.concatenate(parts)[order] for parts in zip(*answers, strict=True)))
        return np.concatenate(answers)[order]

    def _restart(self, failures: dict[int, str]) -> None:
        reason = next(iter(failures.values()))
        if self._failed_before:
            raise InputError(f'an environment fails again and again ({reason})')
        self._failed_before = True
        print(f'warning: an environment failed ({reason}); its worker is started again, once', file=sys.stderr)
        for w in failures:
            self._workers[w][1].close()
            self._workers[w] = self._start(w)
        raise WorkerRestartedError

    def close(self) -> None:
        """Closes the environments and ends the workers."""
        if self._local is not None:
            self._local.close()
        self._end()
