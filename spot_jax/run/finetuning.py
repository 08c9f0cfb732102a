"""Online fine-tuning's loop: every member in an environment of its own, one batched act and one update for all.

Stepping overlaps with updating: while a block of updates runs, the environments are stepped, with the policy from
before it. A block of experience is therefore gathered by parameters that lack the update on the block before it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax import methods
from spot_jax.acting.env_pool import TIMEOUT, EnvPool, MakeEnv, Steps, StoppedError, WorkerRestartedError
from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import Task
from spot_jax.core.train_state import TrainState, init_adam
from spot_jax.methods import METHODS
from spot_jax.population import online, sharding
from spot_jax.population.members import Population
from spot_jax.population.program import PhaseState
from spot_jax.run import results
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


def fine_tune(run: Any, state: PhaseState, make_env: MakeEnv) -> PhaseState:
    """Goes on from `state` for `online.steps` environment steps of every member of a `training.Run`, or until a signal.

    A resumed run starts new episodes: what is lost is the episodes that were in flight. Also if environments fail again
    and again, a checkpoint is written first; then `run.failure` says so.
    """
    config, population, algorithm = run.config, run.population, run.parts.algorithm
    freq = algorithm.block
    options, steps, shape = options_of(config), config.online.steps, run.population.shape
    evaluations, row_size = run.evaluations, run.data.rows.shape[1]
    files = RingFiles(run.workdir / 'ring', run.saved.get('ring_segments'), run.saved.get('ring_sha256'))
    mesh = sharding.grid_mesh(shape, jax.local_devices())
    hypers = run.hypers
    if config.online.discount is not None:
        hypers = hypers._replace(discount=jnp.full(shape, config.online.discount, jnp.float32))
    state, ring, *fixed = online.place(
        mesh,
        state,
        files.load(shape, config.online.capacity or steps, row_size),  # not kept: it is as large as the ring
        *(run.seeds, hypers, run.shared, run.data),
    )
    batch_size = methods.options(config).batch_size
    update = online.online_phase(algorithm, batch_size, options, mesh, config.precision)
    add, act = online.adder(mesh), online.explorer(algorithm, len(run.scaling.action_low), options)
    policy_of = jax.jit(jax.vmap(jax.vmap(algorithm.policy, (0, None, 0))))
    accumulate = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    step = int(ring.count)
    collector: Collector | None = None
    total: Any = None  # metrics since the last log, and of how many blocks
    blocks = 0

    def due(*intervals: int) -> bool:
        return step == steps or any(interval > 0 and step % interval == 0 for interval in intervals)

    def updated(state: PhaseState) -> PhaseState:
        """After the updates on the newest block of experience: they run on while this returns."""
        nonlocal total, blocks
        for _ in range(config.online.updates_per_step * (step > config.online.warmup_steps)):
            state, metrics = update(state, ring, *fixed)
            total, blocks = metrics if total is None else accumulate(total, metrics), blocks + 1
        return state

    owed = False  # whether the newest block of experience awaits its updates
    saved_at = (step, evaluations.at)
    log, save, evaluate = config.log_interval, config.checkpoint.interval, config.evaluation.interval
    with tqdm(total=steps, initial=step, desc='online', unit=' steps', disable=not sys.stdout.isatty()) as bar:
        while True:
            start = time.monotonic()
            policies = snapshot(policy_of(state.learner, fixed[2], fixed[1]))
            if owed and due(log, save, evaluate):
                state, owed = updated(state), False
            if total is not None and due(log, save):
                mean = jax.tree.map(lambda x, n=blocks: x / n, total)
                evaluations.log(results.training_rows(population, 'online', state, mean))
                total, blocks = None, 0
            evaluations.collect()
            stop = run.stopping() and total is None and not owed
            if stop or step == steps or due(save):
                state = without_broken(state)
            done = step >= steps or (not owed and not np.asarray(state.alive).any())
            asked = evaluations.enabled and evaluations.at != step and (step == 0 or done or due(evaluate))
            if asked and done and not stop:
                evaluations.launch('online', state, run.shared, step, run.stopping)
            if stop or done or (step > 0 and due(save)):
                evaluations.finish(step, run.stopping)
                if saved_at != (step, evaluations.at):
                    files.save(ring)
                    run.save('online', state, **files.arrays())
                    saved_at = (step, evaluations.at)
            if stop or done:
                if collector is not None:
                    collector.close()
                return state
            if asked:
                evaluations.launch('online', state, run.shared, step, run.stopping)
            if owed:
                state = updated(state)
            try:
                if collector is None:
                    timeout = config.evaluation.timeout
                    arguments = make_env, population, run.task, run.scaling, step, config.online.workers
                    collector = Collector(*arguments, timeout, run.stopping, run.rewards)
                rows = collector.block(online.with_policies(act, policies, run.seeds), freq, step)
            except (InputError, StoppedError) as error:
                run.failure = error if isinstance(error, InputError) else None
                evaluations.finish(step, run.stopping)
                state = without_broken(state)
                files.save(ring)
                run.save('online', state, **files.arrays())
                if collector is not None:
                    collector.close()
                return state
            ring = add(ring, jnp.asarray(rows.reshape(freq, *shape, row_size)))
            owed = True
            step += freq
            bar.update(freq)
            run.wall_clock['online'] = run.wall_clock.get('online', 0.0) + time.monotonic() - start
