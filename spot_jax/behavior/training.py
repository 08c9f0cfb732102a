"""Training of a behaviour policy: collect, learn, evaluate, keep the policies worth shipping; resumable to the byte."""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from ml_collections import ConfigDict
from tqdm import tqdm

from spot_jax.acting.evaluation import Evaluator
from spot_jax.behavior import sac as sac_lib
from spot_jax.behavior.collect import Act, Collector, Episode, make_environment, restored, saved
from spot_jax.behavior.policy import Policy
from spot_jax.behavior.replay import Ring, add, chunk_fn, empty_ring
from spot_jax.behavior.sac import SAC, SACState
from spot_jax.behavior.settings import Settings
from spot_jax.core.networks import MLP, DoubleCritic
from spot_jax.storage import checkpoint, folder
from spot_jax.storage.metrics import MetricWriter
from spot_jax.system.backend import require_device
from spot_jax.system.errors import InputError

# Streams of a seed's random numbers.
INIT, TRAIN, WARM_UP, EXPLORE, EVALUATE = range(5)
EVALUATION_SEED = 10_000  # of the first evaluation episode
COLUMNS = [
    *('phase', 'member', 'gradient_steps', 'environment_steps', 'evaluation/return', 'evaluation/return_std'),
    *('evaluation/length', 'evaluation/return_deterministic', 'training/return', 'training/critic_loss', 'training/q'),
    *('training/actor_loss', 'training/entropy', 'training/temperature'),
]


# What a checkpoint has.
FIELDS = {'step', 'gradient_steps', 'best', 'medium_at', 'evaluated_at', 'metrics', 'returns', 'learner', 'rows'} | {
    *('count', 'in_flight', 'seen', 'metrics_position')
}


def build(settings: Settings, action_dim: int) -> SAC:
    """The static parts of a robot's SAC."""
    return SAC(
        MLP(settings.hidden_dims, 2 * action_dim),
        DoubleCritic(settings.hidden_dims, layer_norm=settings.layer_norm),
        *(action_dim, settings.policy_freq, settings.lr, settings.discount, settings.tau),
        settings.initial_temperature,
    )


def policy_of(state: SACState, low: np.ndarray, high: np.ndarray) -> Policy:
    """What is learned so far as a NumPy function."""
    layers = jax.device_get(state.actor.params['params'])
    ordered = [layers[f'Dense_{i}'] for i in range(len(layers))]
    return Policy(tuple(d['kernel'] for d in ordered), tuple(d['bias'] for d in ordered), low, high)


def _open(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Begins a run in a folder, or returns its newest checkpoint, empty if there is none; raises InputError."""
    if not os.path.lexists(workdir / 'config.json'):
        folder.begin(config, workdir)
        return {}
    folder.refuse_another(folder.read_json(workdir / 'config.json'), json.loads(config.to_json()), workdir)
    state = folder.resume(workdir, _check)
    folder.tidy(workdir)
    return state or {}


def _check(number: int, state: dict[str, Any]) -> None:
    """Raises DamagedError unless a checkpoint is one of a behaviour policy's training."""
    if state.keys() - {'metrics_sha256'} != FIELDS or state['step'] != number:  # older versions have no checksum
        raise checkpoint.DamagedError('it has other fields')


class Training:
    """One run: everything that a checkpoint holds, and the folder it is written to."""

    def __init__(self, settings: Settings, seed: int, workdir: Path, keep_episodes: bool = False):
        """Starts a run, or goes on with that of the folder; `keep_episodes` keeps all finished episodes in `seen`."""
        self.settings, self.seed, self.workdir, self.stop_signal = settings, seed, workdir, 0
        make_env = partial(make_environment, settings.environment)
        env = make_env()
        self.low, self.high = (bound.astype(np.float32) for bound in (env.action_space.low, env.action_space.high))
        size, action_dim = env.observation_space.shape[0], len(self.low)
        env.close()
        config = ConfigDict({k: v for k, v in settings._asdict().items() if k != 'steps'} | {'seed': seed})
        self.saved = _open(config, workdir)
        self.sac = build(settings, action_dim)
        key = jax.random.key(seed)
        self.train_key = jax.random.fold_in(key, TRAIN)
        fresh = sac_lib.init(jax.random.fold_in(key, INIT), self.sac, size)
        self.state = jax.tree.map(jnp.copy, fresh)  # no array twice, else it cannot be donated
        self.ring = empty_ring(settings.capacity, 2 * size + action_dim + 2)
        num_blocks = max(1, round(settings.chunk * settings.update_ratio / settings.policy_freq))
        self.updates_per_chunk = num_blocks * settings.policy_freq
        self.learn = chunk_fn(self.sac, size, settings.batch_size, num_blocks)
        self.add = jax.jit(add, donate_argnums=0)
        self.max_rows = settings.chunk + settings.num_envs * (settings.n_step - 1)
        self.step = int(self.saved.get('step', 0))
        self.gradient_steps = int(self.saved.get('gradient_steps', 0))
        self.best, self.medium_at = float(self.saved.get('best', -np.inf)), int(self.saved.get('medium_at', 0))
        self.evaluated_at = int(self.saved.get('evaluated_at', 0))
        self.metrics: dict[str, Any] = self.saved.get('metrics', {})  # of the last chunk
        self.returns = [float(r) for r in self.saved.get('returns', [])]  # of the last 100 training episodes
        if self.saved:
            self.state = jax.tree.map(jnp.asarray, serialization.from_state_dict(self.state, self.saved['learner']))
            rows = self.ring.rows.at[: len(self.saved['rows'])].set(self.saved['rows'])
            self.ring = Ring(rows, jnp.int32(self.saved['count']))
        in_flight = [self.saved['in_flight'][str(k)] for k in range(settings.num_envs)] if self.saved else []
        self.seen = [restored(tree) for _, tree in sorted(self.saved.get('seen', {}).items())]
        on_episode = (lambda *ended: self.seen.append(ended)) if keep_episodes else None
        self.collector = Collector(
            make_env, settings.num_envs, seed, settings.n_step, settings.discount, in_flight, on_episode
        )
        self.evaluator = Evaluator(make_env, 1, settings.evaluation_episodes, EVALUATION_SEED, is_maze=False)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Asks the loop to checkpoint and stop; a second signal ends the process at once."""
        del frame
        self.stop_signal = number
        signal.signal(number, signal.SIG_DFL)

    def rng(self, stream: int) -> np.random.Generator:
        """NumPy's random numbers of a stream at the current step."""
        return np.random.default_rng([self.seed, stream, self.step])

    def policy(self) -> Policy:
        """The policy as it is now."""
        return policy_of(self.state, self.low, self.high)

    def explore(self) -> Act:
        """How to act during the next chunk."""
        shape = (self.settings.num_envs, len(self.low))
        if self.step < self.settings.warmup_steps:
            rng = self.rng(WARM_UP)
            return lambda observations: rng.uniform(-1, 1, shape).astype(np.float32)
        policy, rng = self.policy(), self.rng(EXPLORE)
        return lambda observations: policy.unit(observations, rng.standard_normal(shape, np.float32))

    def save(self) -> None:
        """Writes a checkpoint of everything that matters."""
        count = int(self.ring.count)
        tree = {
            'step': self.step,
            'gradient_steps': self.gradient_steps,
            'best': self.best,
            'medium_at': self.medium_at,
            'evaluated_at': self.evaluated_at,
            'metrics': self.metrics,
            'returns': np.array(self.returns),
            'learner': self.state,
            'rows': self.ring.rows[:count],
            'count': count,
            'in_flight': {str(k): episode for k, episode in enumerate(self.collector.in_flight())},
            'seen': {f'{i:08d}': saved(*ended) for i, ended in enumerate(self.seen)},
            **self.writer.sync(),
        }
        checkpoint.save(self.workdir / 'checkpoints', self.step, jax.device_get(tree), keep=2)

    def evaluation_due(self) -> bool:
        """Whether an evaluation's step has come since the last one."""
        settings = self.settings
        seeks_medium = settings.reference_return is not None and not self.medium_at
        interval = settings.medium_interval if seeks_medium else settings.evaluation_interval
        return self.step // interval > self.evaluated_at // interval

    def evaluate(self) -> str | None:
        """Plays the policy as it samples and as it means; keeps `medium` and `expert`. None if told to stop.

        Returns the new row of the metrics as a line of text.
        """
        policy, rng = self.policy(), self.rng(EVALUATE)
        stop = lambda: self.stop_signal != 0
        noise = lambda observations: rng.standard_normal((*observations.shape[:-1], len(self.low)), np.float32)
        sampled = self.evaluator(lambda observations, *_: policy(observations, noise(observations)), stop)
        meant = sampled and self.evaluator(lambda observations, *_: policy(observations), stop)
        if sampled is None or meant is None:
            return None
        value = float(sampled.returns.mean())
        if not self.medium_at and self.settings.is_medium(value):
            self.medium_at = self.step
            self.keep('medium', policy)
        if value > self.best:
            self.best = value
            self.keep('expert', policy)
        self.evaluated_at = self.step
        measured = {
            'evaluation/return': value,
            'evaluation/return_std': float(sampled.returns.std()),
            'evaluation/length': float(sampled.lengths.mean()),
            'evaluation/return_deterministic': float(meant.returns.mean()),
            'training/return': float(np.mean(self.returns)) if self.returns else np.nan,
            **{f'training/{name}': float(x) for name, x in self.metrics.items()},
        }
        counts = {'gradient_steps': self.gradient_steps, 'environment_steps': self.step}
        self.writer.write([{'phase': 'behavior', 'member': 0, **counts, **measured}])
        values = ', '.join(f'{name.split("/")[1]} {x:.4g}' for name, x in measured.items())
        return f'{time.strftime("%H:%M:%S")} {self.step}: {values}'

    def keep(self, name: str, policy: Policy) -> None:
        """Writes a policy that is worth it, and at what step it was found."""
        checkpoint.write_atomically(self.workdir / f'{name}.npz', policy.to_bytes())
        checkpoint.write_atomically(self.workdir / f'{name}.step', f'{self.step}\n'.encode())

    def advance(self) -> None:
        """One chunk: steps in all environments, then updates."""
        rows, returns = self.collector.collect(self.explore(), self.settings.rounds)
        number = jnp.int32(len(rows))
        packed = np.zeros((self.max_rows, self.ring.rows.shape[1]), np.float32)
        if rows:
            packed[: len(rows)] = rows
        self.returns = [*self.returns, *returns][-100:]
        self.step += self.settings.chunk
        if self.step <= self.settings.warmup_steps:
            self.ring = self.add(self.ring, packed, number)
        else:
            key = jax.random.fold_in(self.train_key, self.step)
            self.state, self.ring, self.metrics = self.learn(self.state, self.ring, jnp.asarray(packed), number, key)
            self.gradient_steps += self.updates_per_chunk

    def train(self, steps: int, only_medium: bool = False) -> None:
        """Trains to so many environment steps, until `medium` is found if only that is wanted, or until a signal."""
        settings = self.settings
        saved_at = self.step
        with tqdm(total=steps, initial=self.step, unit=' steps', disable=not sys.stdout.isatty()) as bar:
            while True:
                if self.evaluation_due():
                    line = self.evaluate()
                    if line is not None:
                        bar.write(line, file=sys.stdout)
                        sys.stdout.flush()
                done = self.step >= steps or self.stop_signal or (only_medium and self.medium_at)
                if (done or self.step % settings.checkpoint_interval == 0) and self.step != saved_at:
                    self.save()
                    saved_at = self.step
                if done:
                    return
                self.advance()
                bar.update(settings.chunk)

    def go(self, steps: int, only_medium: bool = False) -> int:
        """`train` with its files; returns the exit status: 0, or 128 + a signal's number."""
        with MetricWriter(self.workdir, COLUMNS, self.saved.get('metrics_position', 0)) as self.writer:
            self.train(steps, only_medium)
        self.collector.close()
        self.evaluator.close()
        return 128 + self.stop_signal if self.stop_signal else 0


def medium_replay(settings: Settings, seed: int, workdir: Path) -> list[tuple[Episode, bool]]:
    """Trains until `medium` is found; returns every episode on the way and whether it terminated, as they ended.

    Last come the unfinished ones, so that it is everything that the replay ring was given.
    """
    with folder.held(workdir):
        training = Training(settings, seed, workdir, keep_episodes=True)
        training.go(settings.steps, only_medium=True)
    if not training.medium_at:
        raise InputError(f'{settings.environment}: not medium after {settings.steps} steps: choose another seed')
    return training.seen + [(episode, False) for episode in training.collector.episodes]


def run(settings: Settings, seed: int, workdir: Path) -> int:
    """Trains or resumes; returns the exit status."""
    require_device()
    with folder.held(workdir):
        training = Training(settings, seed, workdir)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, training.handle_signal)
        return training.go(settings.steps)
