"""Online fine-tuning's loop: every member in an environment of its own, one batched act and one update for all."""

import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax import online, results
from spot_jax.config import Population
from spot_jax.policy import Scaling
from spot_jax.population import PhaseState
from spot_jax.tasks import Task
from spot_jax.train_state import init_adam


class Collector:
    """One environment per member; it turns their steps into packed transitions under the task's rule."""

    def __init__(
        self, make_env: Callable[[], gym.Env], population: Population, task: Task, scaling: Scaling, step: int
    ):
        """Starts an episode of every member; `step` counts environment steps, from a checkpoint on if resumed."""
        self._envs = [make_env() for _ in population.members]
        self._seeds = [member.seed for member in population.members]
        self._task, self._scaling = task, scaling
        self.observations = np.stack([self._reset(i, step) for i in range(len(self._envs))])  # [M, O], raw

    def _reset(self, i: int, step: int) -> np.ndarray:
        seed = np.random.SeedSequence([self._seeds[i], step]).generate_state(1)[0]
        return self._envs[i].reset(seed=int(seed))[0]

    def step(self, actions: np.ndarray, step: int) -> np.ndarray:
        """Takes every member's action [M, A] in [-1, 1]; returns the packed transitions [M, D].

        The state after a time-out is the one it was reached in, not the next episode's first: it is bootstrapped from.
        """
        rows = []
        for i, action in enumerate(actions):
            before = self.observations[i]
            after, reward, terminated, truncated, _ = self._envs[i].step(self._scaling.bounded(action))
            mask = 1.0 - self._task.terminal(np.array(reward), np.array(terminated))
            parts = [self._scaling.normalized(before), action, [self._task.reward(np.array(reward)), mask]]
            rows.append(np.concatenate([*parts, self._scaling.normalized(after)]))
            self.observations[i] = self._reset(i, step) if terminated or truncated or mask == 0 else after
        return np.array(rows, np.float32)

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()


def options_of(config: ConfigDict) -> online.Options:
    """The pure part's options."""
    o = config.online
    return online.Options(o.keep_offline, o.offline_share, o.cooling_floor, o.cooling_steps, o.exploration_noise)


def started(config: ConfigDict, state: PhaseState) -> PhaseState:
    """The offline phase's last state as the online one's first."""
    learner = state.learner
    if config.online.reset_optimizers:
        fresh = lambda s: s.replace(opt_state=jax.vmap(jax.vmap(init_adam))(s.params))
        learner = learner.replace(actor=fresh(learner.actor), critic=fresh(learner.critic))
    return state.replace(learner=learner, block=jnp.int32(0))


def fine_tune(run: Any, state: PhaseState, make_env: Callable[[], gym.Env]) -> PhaseState:
    """Goes on from `state` for `online.steps` environment steps of every member of a `training.Run`, or until a signal.

    A resumed run starts new episodes: what is lost is the episodes that were in flight.
    """
    config, population, freq = run.config, run.population, run.spec.td3.policy_freq
    options, steps, shape = options_of(config), config.online.steps, run.population.shape
    row_size = run.rows.shape[1]
    ring = online.empty_ring(shape, config.online.capacity or steps, row_size)
    if run.saved.get('phase') == 'online':
        written = jnp.asarray(run.saved['ring'])
        ring = online.Ring(ring.rows.at[:, :, : written.shape[2]].set(written), jnp.int32(run.saved['ring_count']))
    hypers = run.hypers
    if config.online.discount is not None:
        hypers = hypers._replace(discount=jnp.full(shape, config.online.discount, jnp.float32))
    update, act = online.online_phase(run.spec, options), online.explorer(run.spec, options)
    add = jax.jit(online.add, donate_argnums=0)
    accumulate = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    step = int(ring.count)
    collector = Collector(make_env, population, run.task, run.scaling, step)
    total: Any = None  # metrics since the last log, and of how many blocks
    blocks = 0

    def due(interval: int) -> bool:
        return step == steps or (interval > 0 and step % interval == 0)

    saved_at = (step, run.evaluated_at)
    with tqdm(total=steps, initial=step, desc='online', unit=' steps', disable=not sys.stdout.isatty()) as bar:
        while True:
            if run.evaluates and run.evaluated_at != step and due(config.evaluation.interval):
                run.evaluate('online', state, step, bar)
            done = step >= steps or (total is None and not np.asarray(state.alive).any())
            stop = run.stop_signal and total is None
            now = (step, run.evaluated_at)
            if (stop or done or (step > 0 and due(config.checkpoint.interval))) and saved_at != now:
                kept = min(step, ring.rows.shape[2])
                run.save('online', state, ring=ring.rows[:, :, :kept], ring_count=step)
                saved_at = now
            if stop or done:
                collector.close()
                return state
            start = time.monotonic()
            rows = []
            for i in range(freq):
                seen = jnp.asarray(run.scaling.normalized(collector.observations).reshape(*shape, -1))
                actions = act(state.learner.actor.params, seen, run.seeds, jnp.int32(step + i))
                rows.append(collector.step(np.asarray(actions).reshape(len(population.members), -1), step + i + 1))
            ring = add(ring, jnp.asarray(np.array(rows).reshape(freq, *shape, row_size)))
            step += freq
            bar.update(freq)
            if step > config.online.warmup_steps:
                for _ in range(config.online.updates_per_step):
                    state, metrics = update(state, ring, run.seeds, hypers, run.density_params, run.rows)
                    total, blocks = metrics if total is None else accumulate(total, metrics), blocks + 1
            if total is not None and (due(config.log_interval) or due(config.checkpoint.interval)):
                mean = jax.tree.map(lambda x, n=blocks: x / n, total)
                run.writer.write(results.training_rows(population, 'online', state, mean))
                total, blocks = None, 0
            run.wall_clock['online'] = run.wall_clock.get('online', 0.0) + time.monotonic() - start
