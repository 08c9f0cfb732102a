"""Online fine-tuning's loop: every member in an environment of its own, one batched act and one update for all.

Stepping overlaps with updating: while a block of updates runs, the environments are stepped, with the policy from
before it. A block of experience is therefore gathered by parameters that lack the update on the block before it.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax import methods
from spot_jax.acting.env_pool import TIMEOUT, EnvPool, MakeEnv, Steps, StoppedError, WorkerRestartedError
from spot_jax.acting.scaling import Scaling, finite
from spot_jax.acting.tasks import Task
from spot_jax.core.method import Data
from spot_jax.core.train_state import TrainState, init_adam
from spot_jax.methods import METHODS
from spot_jax.population import online, program, sharding
from spot_jax.population.members import Population
from spot_jax.population.program import PhaseState
from spot_jax.run import results
from spot_jax.run.build import Parts, Rewards
from spot_jax.run.evaluations import Evaluations
from spot_jax.run.policy import snapshot
from spot_jax.run.ring_files import RingFiles
from spot_jax.run.workdir import without_broken
from spot_jax.system.errors import InputError

PATIENCE = 1000  # environment steps: an environment that fails twice within so many ends the run
GRACE = 5.0  # seconds that environments may still take when the run is to stop

# (observations [M, O] as the networks see them, environment steps so far) -> actions [M, A] in [-1, 1]
Explore = Callable[[np.ndarray, int], np.ndarray]


class Collector:
    """One environment per member; it turns their steps into packed transitions under the task's rule."""

    def __init__(
        self,
        make_env: MakeEnv,
        population: Population,
        task: Task,
        scaling: Scaling,
        step: int,
        num_workers: int = 0,
        timeout: float = TIMEOUT,
        stopping: Callable[[], bool] = lambda: False,
        rewards: Callable[[np.ndarray], np.ndarray] = lambda task_rewards: task_rewards,
    ):
        """Starts an episode of every member; `step` counts environment steps, from a checkpoint on if resumed.

        Here and below InputError is raised if environments fail again and again (`timeout` is that of `EnvPool`), and
        StoppedError if one is still waited for when `stopping` has been true for a while.
        """
        self._seeds = [member.seed for member in population.members]
        self._pool = EnvPool(make_env, len(self._seeds), num_workers, timeout, PATIENCE)
        self._pool.stopping, self._pool.grace = stopping, GRACE
        self._task, self._scaling, self._rewards = task, scaling, rewards
        self.observations: np.ndarray  # [M, O], raw
        try:
            self._begin_all(step)
        except BaseException:
            self._pool.close()
            raise

    def _begin_all(self, step: int) -> None:
        everyone = np.arange(len(self._seeds))
        try:
            self.observations = self._reset(everyone, step)
        except WorkerRestartedError:
            self.observations = self._reset(everyone, step)

    def _begin(self, indices: np.ndarray, step: int) -> None:
        try:
            self.observations[indices] = self._reset(indices, step)
        except WorkerRestartedError:
            self._begin_all(step)

    def _reset(self, indices: np.ndarray, step: int) -> np.ndarray:
        seeds = [np.random.SeedSequence([self._seeds[i], step]).generate_state(1)[0] for i in indices]
        return self._pool.reset(indices, np.array(seeds))

    def step(self, actions: np.ndarray, step: int) -> np.ndarray:
        """Takes every member's action [M, A] in [-1, 1]; returns the packed transitions [M, D].

        The state after a time-out is the one it was reached in, not the next episode's first: it is bootstrapped from.
        If an environment failed, all episodes are given up and the actions are taken from new ones.
        """
        actions = finite(actions)  # what is done is what is kept
        try:
            steps = self._step(actions)
        except WorkerRestartedError:
            self._begin_all(step)
            steps = self._step(actions)
        self._pool.succeeded()
        before, after = (self._scaling.normalized(x) for x in (self.observations, steps.observations))
        masks = 1.0 - self._task.terminal(steps.rewards, steps.terminated)
        rewards = self._rewards(self._task.reward(steps.rewards))
        self.observations = steps.observations
        ended = np.flatnonzero(steps.terminated | steps.truncated | (masks == 0))
        if ended.size:
            self._begin(ended, step)
        return np.concatenate([before, actions, rewards[:, None], masks[:, None], after], axis=1).astype(np.float32)

    def _step(self, actions: np.ndarray) -> Steps:
        self._pool.send(np.arange(len(actions)), self._scaling.bounded(actions))
        return self._pool.receive()

    def block(self, explore: Explore, num_steps: int, step: int) -> np.ndarray:
        """Takes the next `num_steps` after `step` in every environment; returns the transitions [num_steps, M, D]."""
        rows = []
        for t in range(step, step + num_steps):
            rows.append(self.step(explore(self._scaling.normalized(self.observations), t), t + 1))
        return np.array(rows)

    def close(self) -> None:
        """Closes the environments."""
        self._pool.close()


def options_of(config: ConfigDict) -> online.Options:
    """The pure part's options."""
    o = config.online
    cooled = METHODS[config.method].cooled
    return online.Options(
        o.keep_offline, o.offline_share, o.cooling_floor, o.cooling_steps, o.exploration_noise, cooled
    )


def started(config: ConfigDict, state: PhaseState) -> PhaseState:
    """The offline phase's last state as the online one's first."""
    learner = state.learner
    if config.online.reset_optimizers:
        is_network = lambda x: isinstance(x, TrainState)
        fresh = lambda s: s.replace(opt_state=jax.vmap(jax.vmap(init_adam))(s.params)) if is_network(s) else s
        learner = jax.tree.map(fresh, learner, is_leaf=is_network)
    return state.replace(learner=learner, block=jnp.int32(0))


class Shell(Protocol):
    """What fine-tuning takes of a `training.Run`."""

    config: ConfigDict
    workdir: Path
    task: Task
    parts: Parts
    population: Population
    seeds: jax.Array  # [C]
    hypers: Any  # [C, P]
    shared: Any  # what the stages came to, [C]
    data: Data
    scaling: Scaling
    rewards: Rewards
    evaluations: Evaluations
    wall_clock: dict[str, float]
    saved: dict[str, Any]  # the checkpoint that is gone on from
    failure: InputError | None

    def stopping(self) -> bool:
        """Whether the run is to stop."""

    def save(self, phase: str, state: PhaseState, **more: Any) -> None:
        """Writes a checkpoint."""


class FineTuning:
    """The online phase of a run."""

    def __init__(self, run: Shell, state: PhaseState, make_env: MakeEnv):
        """Goes on from `state`, with the ring that the run's checkpoint has, if any."""
        config, algorithm, options = run.config, run.parts.algorithm, options_of(run.config)
        self.run, self.make_env, self.num_steps, self.block = run, make_env, config.online.steps, algorithm.block
        self.shape, self.row_size = run.population.shape, run.data.rows.shape[1]
        self.files = RingFiles(run.workdir / 'ring', run.saved.get('ring_segments'), run.saved.get('ring_sha256'))
        mesh = sharding.grid_mesh(self.shape, jax.local_devices())
        hypers = run.hypers
        if config.online.discount is not None:
            hypers = hypers._replace(discount=jnp.full(self.shape, config.online.discount, jnp.float32))
        self.state, self.ring, *self.fixed = online.place(
            mesh,
            state,
            # Not kept under a name: it is as large as the ring.
            self.files.load(self.shape, config.online.capacity or self.num_steps, self.row_size),
            *(run.seeds, hypers, run.shared, run.data),
        )
        batch_size = methods.options(config).batch_size
        self.program = online.online_phase(algorithm, batch_size, options, mesh, config.precision)
        self.add, self.act = online.adder(mesh), online.explorer(algorithm, len(run.scaling.action_low), options)
        self.policies_of = jax.jit(partial(program.grid_of_policies, algorithm))
        self.accumulate = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
        self.step = int(self.ring.count)
        self.owed = False  # whether the newest block of experience awaits its updates
        self.metrics: Any = None  # the sum since the last log, and of how many blocks
        self.num_blocks = 0
        self.saved_at = (self.step, run.evaluations.at) if run.saved.get('phase') == 'online' else None
        self.collector: Collector | None = None

    def go(self) -> PhaseState:
        """Takes `online.steps` environment steps of every member, or until a signal; returns the last state.

        A resumed run starts new episodes: what is lost is the episodes that were in flight. Also if environments fail
        again and again, a checkpoint is written first; then the run's `failure` says so.
        """
        run, config = self.run, self.run.config
        options: dict[str, Any] = {'unit': ' steps', 'disable': not sys.stdout.isatty()}
        with tqdm(total=self.num_steps, initial=self.step, desc='online', **options) as bar:
            while True:
                start = time.monotonic()
                policies = snapshot(self.policies_of(self.state.learner, self.fixed[2], self.fixed[1]))
                if self._due(config.log_interval, config.checkpoint.interval, config.evaluation.interval):
                    self._update()
                if self._due(config.log_interval, config.checkpoint.interval):
                    self._log()
                if self._ends():
                    return self.state
                self._update()
                rows = self._experience(online.with_policies(self.act, policies, run.seeds))
                if rows is None:
                    return self.state
                self.ring = self.add(self.ring, jnp.asarray(rows.reshape(self.block, *self.shape, self.row_size)))
                self.owed = True
                self.step += self.block
                bar.update(self.block)
                run.wall_clock['online'] = run.wall_clock.get('online', 0.0) + time.monotonic() - start

    def _due(self, *intervals: int) -> bool:
        return self.step == self.num_steps or any(i > 0 and self.step % i == 0 for i in intervals)

    def _update(self) -> None:
        """The updates that the newest block of experience is owed: they run on while this returns."""
        online_options = self.run.config.online
        if self.owed and self.step > online_options.warmup_steps:
            for _ in range(online_options.updates_per_step):
                self.state, metrics = self.program(self.state, self.ring, *self.fixed)
                self.metrics = metrics if self.metrics is None else self.accumulate(self.metrics, metrics)
                self.num_blocks += 1
        self.owed = False

    def _log(self) -> None:
        if self.metrics is not None:
            mean = jax.tree.map(lambda x: x / self.num_blocks, self.metrics)
            self.run.evaluations.log(results.training_rows(self.run.population, 'online', self.state, mean))
            self.metrics, self.num_blocks = None, 0

    def _ends(self) -> bool:
        """Evaluates and saves where that is due; whether the phase is over, with all done."""
        run, evaluations, intervals = self.run, self.run.evaluations, self.run.config
        evaluations.collect()
        stop = run.stopping() and self.metrics is None and not self.owed
        save = self._due(intervals.checkpoint.interval)
        evaluation_due = evaluations.enabled and (self.step == 0 or self._due(intervals.evaluation.interval))
        if stop or save or evaluation_due:
            self.state = without_broken(self.state)
        done = self.step >= self.num_steps or (not self.owed and not np.asarray(self.state.alive).any())
        asked = evaluations.enabled and evaluations.at != self.step and (done or evaluation_due)
        if asked and done and not stop:
            evaluations.launch('online', self.state, run.shared, self.step, run.stopping)
        if stop or done or (self.step > 0 and save):
            self._save()
        if stop or done:
            self._close()
        elif asked:
            evaluations.launch('online', self.state, run.shared, self.step, run.stopping)
        return stop or done

    def _save(self) -> None:
        evaluations = self.run.evaluations
        evaluations.finish(self.step, self.run.stopping)
        if self.saved_at != (self.step, evaluations.at):
            self.files.save(self.ring)
            self.run.save('online', self.state, **self.files.arrays())
            self.saved_at = (self.step, evaluations.at)

    def _experience(self, explore: Explore) -> np.ndarray | None:
        """The next block's transitions [F, M, D]; None, with all saved, if environments fail or the run is to stop."""
        run, config = self.run, self.run.config
        try:
            if self.collector is None:
                arguments = self.make_env, run.population, run.task, run.scaling, self.step, config.online.workers
                self.collector = Collector(*arguments, config.evaluation.timeout, run.stopping, run.rewards.of)
            return self.collector.block(explore, self.block, self.step)
        except (InputError, StoppedError) as error:
            run.failure = error if isinstance(error, InputError) else None
            self.state = without_broken(self.state)
            self._save()
            self._close()
            return None

    def _close(self) -> None:
        if self.collector is not None:
            self.collector.close()
