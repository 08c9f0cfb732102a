"""A run's evaluations: each plays a snapshot of the policies, in worker processes, while training goes on."""

import concurrent.futures
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from flax import serialization
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax.acting import evaluation
from spot_jax.acting.env_pool import MakeEnv
from spot_jax.acting.evaluation import Episodes, Evaluator
from spot_jax.acting.tasks import Reference, Task
from spot_jax.core.method import Algorithm
from spot_jax.core.types import Params
from spot_jax.population import program
from spot_jax.population.members import Population
from spot_jax.population.program import PhaseState
from spot_jax.run import policy, results
from spot_jax.storage.metrics import MetricWriter
from spot_jax.system import backend
from spot_jax.system.errors import InputError


class _Pending(NamedTuple):
    """An evaluation that has not been taken in."""

    phase: str
    step: int
    state: PhaseState  # without the learner
    params: Params  # of the policies [M]
    future: concurrent.futures.Future
    rows: list[list[results.Row]]  # of training metrics, which wait for it


class Evaluations:
    """Launches evaluations, and writes what they came to among the metrics, in the order of the steps.

    Rows of training metrics that come after an evaluation wait for it, so that `metrics.csv` is the same however long
    it takes. At most one is in flight. Without an environment, or with no episodes asked for, there are none.

    A wish to stop abandons it, and so does an environment that fails again and again, which `failure` then tells of.
    What was abandoned is in the checkpoint with the rows that wait for it: a resumed run plays it first.
    """

    def __init__(
        self,
        config: ConfigDict,
        population: Population,
        make_env: MakeEnv | None,
        reference: Reference | None,
        task: Task,
        algorithm: Algorithm,
        hypers: Any,
        scaling: policy.Scaling,
        saved: dict[str, Any],
        policies: Callable[[], Params],
    ):
        """`saved` is the checkpoint's part: what `arrays` made. `policies` makes the shapes of
        policies [M]."""
        self.enabled = make_env is not None and config.evaluation.episodes > 0
        self._options, self._population, self._scaling = config.evaluation, population, scaling
        self._make_env, self._reference, self._task = make_env, reference, task
        self._algorithm, self._hypers = algorithm, hypers
        self.at: int = saved.get('evaluated_at', 0)  # the step of the last one
        self.episodes = Episodes.from_arrays(saved.get('episodes'))  # of the last one
        self.before = Episodes.from_arrays(saved.get('before'))  # of the online phase's first
        self.online_successes = list(saved.get('online_successes', []))  # [M] of each of the online phase's
        self.seconds = 0.0
        self._evaluator: Evaluator | None = None  # made at the first evaluation
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self.failure: InputError | None = None
        self._pending: list[_Pending] = []  # the first is in flight; the others are there once that was abandoned
        self._cancelled = False  # what is in flight is to be abandoned ...
        self._abandoned = False  # ... and was
        self._saved, self._policies = saved.get('pending', {}), policies
        self.writer: MetricWriter

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {
            'evaluated_at': self.at,
            'episodes': evaluation.arrays(self.episodes),
            'before': evaluation.arrays(self.before),
            'online_successes': np.array(self.online_successes),
        }
        pending = {str(i): self._arrays_of(item) for i, item in enumerate(self._pending)}
        return kept | ({'pending': pending} if pending else {})

    @staticmethod
    def _arrays_of(item: _Pending) -> dict[str, Any]:
        state = {name: getattr(item.state, name) for name in ('alive', 'gradient_steps', 'block')}
        return {'phase': item.phase, 'step': item.step, 'params': item.params, 'rows': json.dumps(item.rows), **state}

    def resume(self) -> None:
        """Launches what the checkpoint has of abandoned evaluations."""
        for _, item in sorted(self._saved.items(), key=lambda pair: int(pair[0])):
            state = PhaseState(None, item['alive'], item['gradient_steps'], item['block'])
            params = serialization.from_state_dict(self._policies(), item['params'])
            self._submit(item['phase'], int(item['step']), state, policy.snapshot(params))
            self._pending[-1].rows.extend(json.loads(item['rows']))

    def log(self, rows: list[results.Row]) -> None:
        """Writes training metrics, now or after the evaluation in flight."""
        if self._pending:
            self._pending[-1].rows.append(rows)
        else:
            self.writer.write(rows)

    def launch(self, phase: str, state: PhaseState, shared: Any, step: int, stopping: Callable[[], bool]) -> None:
        """Evaluates the policies of `state` [C, P] as they are now; without workers or on one core, before it returns.

        `shared` [C] is what the members' stages came to.
        """
        self._wait(stopping)
        params = policy.snapshot(program.policies_of(self._algorithm, state.learner, shared, self._hypers))
        self._submit(phase, step, jax.device_get(state.replace(learner=None)), params)
        # On one core each of the policies' answers would wait for a thousand updates.
        if self._options.workers == 0 or backend.has_one_core():
            self._wait(stopping)

    def _submit(self, phase: str, step: int, state: PhaseState, params: Params) -> None:
        self._pending.append(_Pending(phase, step, state, params, self._thread.submit(self._play, params), []))

    def _play(self, params: Params) -> tuple[Episodes | None, float]:
        start = time.monotonic()
        if self._cancelled:
            return None, 0.0
        if self._evaluator is None:
            assert self._make_env is not None
            o, size = self._options, len(self._population.members)
            arguments = self._make_env, size, o.episodes, o.seed, self._task.is_maze, o.workers, o.timeout
            self._evaluator = Evaluator(*arguments)
            self._actors = policy.Actors(self._algorithm, self._task)
        return self._evaluator(
            self._actors.play(params, self._scaling), lambda: self._cancelled
        ), time.monotonic() - start

    def collect(self) -> None:
        """Takes in the evaluation in flight if it has ended."""
        while self._pending and not self._abandoned and self._pending[0].future.done():
            try:
                episodes, seconds = self._pending[0].future.result()
            except InputError as error:
                self.failure, self._cancelled, self._abandoned = error, True, True
                return
            self.seconds += seconds
            if episodes is None:
                self._abandoned = True
            else:
                self._take_in(self._pending.pop(0), episodes)

    def finish(self, step: int, stopping: Callable[[], bool]) -> None:
        """Waits for the evaluation in flight; a wish to stop, or a failure, ends it undone.

        One of `step`, the present one, is then forgotten: a resumed run launches it again.
        """
        self._wait(stopping)
        self._pending = [item for item in self._pending if item.step != step]

    def _wait(self, stopping: Callable[[], bool]) -> None:
        while self._pending and not self._abandoned:
            self._cancelled |= stopping()
            concurrent.futures.wait([self._pending[0].future], timeout=0.1)
            self.collect()

    def _take_in(self, item: _Pending, episodes: Episodes) -> None:
        self.episodes, self.at = episodes, item.step
        if item.phase == 'online':
            self.before = self.before or episodes
            if episodes.successes is not None:
                self.online_successes.append(episodes.successes.mean(axis=1))
        row_arguments = (self._population, item.phase, item.state, episodes, self._reference)
        self.writer.write(results.evaluation_rows(*row_arguments))
        tqdm.write(results.evaluation_line(item.phase, item.step, episodes), file=sys.stdout)
        for rows in item.rows:
            self.writer.write(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled = True
        # In the thread that started the worker processes, as Linux ends these with it (`workers.follow_parent`).
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._evaluator is not None:
            self._evaluator.close()
