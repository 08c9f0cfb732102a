"""A run's evaluations: each plays a snapshot of the policies, in worker processes, while training goes on."""

import concurrent.futures
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax import evaluation, policy, results
from spot_jax.config import Population
from spot_jax.env_pool import MakeEnv
from spot_jax.evaluation import Episodes, Evaluator
from spot_jax.metrics import MetricWriter
from spot_jax.networks import Actor
from spot_jax.population import PhaseState
from spot_jax.tasks import Reference, Task


class _Pending(NamedTuple):
    """An evaluation in flight."""

    phase: str
    step: int
    state: PhaseState  # without the learner
    future: concurrent.futures.Future


class Evaluations:
    """Launches evaluations, and writes what they came to among the metrics, in the order of the steps.

    Rows of training metrics that come after an evaluation wait for it, so that `metrics.csv` is the same however long
    it takes. At most one is in flight. Without an environment, or with no episodes asked for, there are none.
    """

    def __init__(
        self,
        config: ConfigDict,
        population: Population,
        make_env: MakeEnv | None,
        reference: Reference | None,
        task: Task,
        actor: Actor,
        scaling: policy.Scaling,
        saved: dict[str, Any],
    ):
        """`saved` is the checkpoint's part: what `arrays` made."""
        self.enabled = make_env is not None and config.evaluation.episodes > 0
        self._options, self._population, self._scaling = config.evaluation, population, scaling
        self._make_env, self._reference, self._task, self._actor = make_env, reference, task, actor
        self.at: int = saved.get('evaluated_at', 0)  # the step of the last one
        self.episodes = Episodes.from_arrays(saved.get('episodes'))  # of the last one
        self.before = Episodes.from_arrays(saved.get('before'))  # of the online phase's first
        self.online_successes = list(saved.get('online_successes', []))  # [M] of each of the online phase's
        self.seconds = 0.0
        self._evaluator: Evaluator | None = None  # made at the first evaluation
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: _Pending | None = None
        self._held: list[list[results.Row]] = []
        self._cancelled = False
        self.writer: MetricWriter

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            'evaluated_at': self.at,
            'episodes': evaluation.arrays(self.episodes),
            'before': evaluation.arrays(self.before),
            'online_successes': np.array(self.online_successes),
        }

    def log(self, rows: list[results.Row]) -> None:
        """Writes training metrics, now or after the evaluation in flight."""
        if self._pending is None:
            self.writer.write(rows)
        else:
            self._held.append(rows)

    def launch(self, phase: str, state: PhaseState, step: int, stopping: Callable[[], bool]) -> None:
        """Evaluates the policies of `state` [C, P] as they are now; without workers, before it returns."""
        self.finish(self.at, stopping)
        params = policy.snapshot(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.learner.actor.params))
        light = jax.device_get(state.replace(learner=None))
        self._cancelled = False
        self._pending = _Pending(phase, step, light, self._thread.submit(self._play, params))
        if self._options.workers == 0:
            self.finish(step, stopping)

    def _play(self, params: Any) -> tuple[Episodes | None, float]:
        start = time.monotonic()
        if self._evaluator is None:
            assert self._make_env is not None
            o, size = self._options, len(self._population.members)
            self._evaluator = Evaluator(self._make_env, size, o.episodes, o.seed, self._task.is_maze, o.workers)
            self._act = policy.batched_act(self._actor)
        act = lambda observations: self._act(params, observations, self._scaling)
        return self._evaluator(act, lambda: self._cancelled), time.monotonic() - start

    def collect(self) -> None:
        """Takes in the evaluation in flight if it has ended."""
        if self._pending is not None and self._pending.future.done():
            self._take_in(self._pending)

    def finish(self, step: int, stopping: Callable[[], bool]) -> None:
        """Waits for the evaluation in flight; if it is of `step`, the present one, a wish to stop ends it undone.

        An earlier one is played to its end even then: rows of metrics wait for it.
        """
        while self._pending is not None:
            self._cancelled |= self._pending.step == step and stopping()
            concurrent.futures.wait([self._pending.future], timeout=0.1)
            self.collect()

    def _take_in(self, pending: _Pending) -> None:
        self._pending = None
        episodes, seconds = pending.future.result()
        self.seconds += seconds
        if episodes is not None:
            self.episodes, self.at = episodes, pending.step
            if pending.phase == 'online':
                self.before = self.before or episodes
                if episodes.successes is not None:
                    self.online_successes.append(episodes.successes.mean(axis=1))
            row_arguments = (self._population, pending.phase, pending.state, episodes, self._reference)
            self.writer.write(results.evaluation_rows(*row_arguments))
            tqdm.write(results.evaluation_line(pending.phase, pending.step, episodes), file=sys.stdout)
        for rows in self._held:
            self.writer.write(rows)
        self._held = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled = True
        self._thread.shutdown()
        if self._evaluator is not None:
            self._evaluator.close()
