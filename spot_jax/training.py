"""A run from start to end: data, CVAEs, policies, evaluations, checkpoints and results. The only file with loops."""

import json
import math
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

from spot_jax import checkpoint, environments, evaluation, policy, population, restore, results
from spot_jax.config import members, validate
from spot_jax.datasets import Dataset, load
from spot_jax.errors import InputError
from spot_jax.evaluation import Episodes, Evaluator
from spot_jax.finetuning import fine_tune, started
from spot_jax.metrics import MetricWriter
from spot_jax.networks import CVAE, Actor, DoubleCritic
from spot_jax.population import PhaseState, Spec
from spot_jax.regularizers import REGULARIZERS
from spot_jax.tasks import TASKS
from spot_jax.td3 import TD3
from spot_jax.types import Params
from spot_jax.workdir import open_workdir

ALL_DIVERGED = 3
PHASES = ('cvae', 'offline', 'online')


def build_spec(config: ConfigDict, observation_dim: int, action_dim: int) -> Spec:
    """The static facts of a run, from its config and its dataset's sizes."""
    cvae = CVAE(action_dim, tuple(config.cvae.hidden_dims), config.cvae.latent_dim)
    reg = config.regularizer
    td3 = TD3(
        Actor(action_dim, tuple(config.actor.hidden_dims), config.actor.output_init, config.actor.dropout),
        DoubleCritic(tuple(config.critic.hidden_dims), config.critic.output_init),
        REGULARIZERS[reg.name](cvae, reg.estimator, reg.num_samples),
        config.policy_freq,
        config.normalize_q,
    )
    return Spec(cvae, td3, observation_dim, config.batch_size, config.cvae.lr, config.precision)


def normalize(dataset: Dataset, enabled: bool) -> policy.Scaling:
    """Normalises the dataset's observations in place, (s − mean) / (std + 1e-3), and says how."""
    o, rows = dataset.observation_dim, dataset.transitions
    mean, std = np.zeros(o, np.float32), np.ones(o, np.float32)
    if enabled:
        mean = rows[:, :o].mean(axis=0, dtype=np.float64).astype(np.float32)
        std = (rows[:, :o].std(axis=0, dtype=np.float64) + 1e-3).astype(np.float32)
        for columns in (rows[:, :o], rows[:, -o:]):
            columns -= mean
            columns /= std
    return policy.Scaling(mean, std, dataset.action_low, dataset.action_high)


class Run:
    """The shell around the pure phases: everything that a checkpoint holds, and where it is written."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir, self.task = config, workdir, TASKS[config.task]
        if config.online.steps and config.online.restore:
            restore.take_over_population(config)
        dataset = load(config.dataset_id, self.task)
        self.dataset_id, self.sha256, self.environment = dataset.dataset_id, dataset.sha256, dataset.environment
        self._check_environment(dataset)
        self.spec = build_spec(config, dataset.observation_dim, dataset.action_dim)
        self.population = members(config)
        self.seeds = jnp.array([seed for seed, _ in self.population.cvaes()], jnp.uint32)
        self.hypers = self.population.hyperparameters()
        self.density_params: Params = None
        if config.cvae.restore and self.spec.td3.regularizer.uses_density:
            self.density_params = restore.restored_cvaes(config, self.population, self.sha256)
        self.fresh = population.init_policies(self.seeds, self.population.shape[1], self.spec)
        if config.online.steps and config.online.restore:
            self.fresh, self.density_params = restore.restored_policies(
                config, self.sha256, self.fresh, self.spec.td3.regularizer.uses_density
            )
        self.saved = open_workdir(config, workdir) or {}
        if self.saved and self.saved['sha256'] != self.sha256:
            raise InputError(
                f'{config.dataset_id} has changed since the run in {workdir} began: choose another --workdir'
            )
        self.scaling = normalize(dataset, config.normalize_observations)
        self.rows = jnp.asarray(dataset.transitions)
        self.act = policy.batched_act(self.spec.td3.actor)
        self.evaluator: Evaluator | None = None  # made at the first evaluation
        self.wall_clock: dict[str, float] = self.saved.get('wall_clock', {})
        self.evaluated_at: int = self.saved.get('evaluated_at', 0)
        self.episodes = Episodes.from_arrays(self.saved.get('episodes'))  # the last evaluation
        self.before = Episodes.from_arrays(self.saved.get('before'))  # the online phase's first
        self.online_successes = list(self.saved.get('online_successes', []))  # [M] of each of its evaluations
        self.stop_signal = 0

    def _check_environment(self, dataset: Dataset) -> None:
        if self.environment is None and self.config.online.steps:
            raise InputError(f'{self.dataset_id} names no environment to fine-tune in: leave config.online.steps at 0')
        self.evaluates = self.environment is not None and self.config.evaluation.episodes > 0
        if not self.evaluates:
            print('this run is not evaluated: no episodes are asked for, or the dataset names no environment')
        if self.environment is None:
            return
        env = environments.make(self.environment, self.task)
        environments.check(env, dataset.transitions, dataset.action_low, dataset.action_high)
        env.close()

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Asks the loop to checkpoint and stop; a second signal ends the process at once."""
        del frame
        self.stop_signal = number
        signal.signal(number, signal.SIG_DFL)

    def save(self, phase: str, state: PhaseState, **more: Any) -> None:
        """Writes a checkpoint of everything that matters."""
        tree = {
            'phase': phase,
            'learner': state.learner,
            'alive': state.alive,
            'gradient_steps': state.gradient_steps,
            'block': state.block,
            'density_params': self.density_params or {},
            'scaling': self.scaling._asdict(),
            'sha256': self.sha256,
            'metrics_position': self.writer.position,
            'wall_clock': self.wall_clock,
            'evaluated_at': self.evaluated_at,
            'episodes': evaluation.arrays(self.episodes),
            'before': evaluation.arrays(self.before),
            'online_successes': np.array(self.online_successes),
            **more,
        }
        number = int(state.block) + PHASES.index(phase) * 10**9
        checkpoint.save(self.workdir / 'checkpoints', number, jax.device_get(tree), self.config.checkpoint.keep)

    def restored(self, phase: str, fresh: PhaseState) -> PhaseState:
        """`fresh`, or what the checkpoint has of this phase."""
        if self.saved.get('phase') != phase:
            return fresh
        fields = {
            k: serialization.from_state_dict(getattr(fresh, k), self.saved[k]) for k in PhaseState.__annotations__
        }
        return jax.tree.map(jnp.asarray, PhaseState(**fields))

    def evaluate(self, phase: str, state: PhaseState, step: int, bar: tqdm) -> None:
        """Evaluates all members, unless told to stop on the way."""
        assert self.environment is not None
        start = time.monotonic()
        options = self.config.evaluation
        if self.evaluator is None:
            make_env = partial(environments.make, self.environment, self.task)
            size = len(self.population.members)
            self.evaluator = Evaluator(make_env, size, options.episodes, options.seed, self.task.is_maze)
        params = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.learner.actor.params)
        episodes = self.evaluator(lambda obs: self.act(params, obs, self.scaling), lambda: self.stop_signal != 0)
        if episodes is None:
            return
        self.episodes, self.evaluated_at = episodes, step
        if phase == 'online':
            self.before = self.before or episodes
            if episodes.successes is not None:
                self.online_successes.append(episodes.successes.mean(axis=1))
        self.writer.write(results.evaluation_rows(self.population, phase, state, episodes, self.environment.id))
        bar.write(results.evaluation_line(phase, step, episodes), file=sys.stdout)
        self.wall_clock['evaluation'] = self.wall_clock.get('evaluation', 0.0) + time.monotonic() - start

    def train(self, phase: str, make: Any, state: PhaseState, steps: int, steps_per_block: int) -> PhaseState:
        """Runs a phase to its end, until all members have diverged, or until a signal."""
        options = self.config
        evaluates = phase != 'cvae' and self.evaluates
        intervals = [options.log_interval, options.checkpoint.interval, options.evaluation.interval * evaluates]
        chunk = math.gcd(steps, *(i for i in intervals if 0 < i < steps))
        run = make(self.spec, chunk)

        def due(interval: int, step: int) -> bool:
            return step > 0 and (step == steps or (interval > 0 and step % interval == 0))

        step = int(state.block) * steps_per_block
        saved = (step, self.evaluated_at) if self.saved.get('phase') == phase else None
        was_alive = self.population.per_member(state.alive)
        pending: list[Any] = []  # metrics of chunks that are not logged yet
        with tqdm(total=steps, initial=step, desc=phase, unit=' updates', disable=not sys.stdout.isatty()) as bar:
            while True:
                alive = self.population.per_member(state.alive)
                for member in np.flatnonzero(was_alive & ~alive):
                    bar.write(f'{phase} {step}: member {member} has diverged and is frozen', file=sys.stdout)
                was_alive = alive
                done = step >= steps or not alive.any()
                stop = self.stop_signal and not pending
                if (
                    evaluates
                    and not stop
                    and self.evaluated_at != step
                    and (done or due(options.evaluation.interval, step))
                ):
                    self.evaluate(phase, state, step, bar)
                    stop = self.stop_signal and not pending
                now = (step, self.evaluated_at)
                if (stop or done or due(options.checkpoint.interval, step)) and saved != now:
                    self.save(phase, state)
                    saved = now
                if stop or done:
                    return state
                start = time.monotonic()
                state, metrics = run(state, self.seeds, self.hypers, self.density_params, self.rows)
                pending.append(metrics)
                step += chunk
                bar.update(chunk)
                if due(options.log_interval, step) or due(options.checkpoint.interval, step):
                    mean = jax.tree.map(lambda *xs: jnp.mean(jnp.stack(xs), axis=0), *pending)
                    self.writer.write(results.training_rows(self.population, phase, state, mean))
                    pending = []
                self.wall_clock[phase] = self.wall_clock.get(phase, 0.0) + time.monotonic() - start

    def offline(self) -> PhaseState:
        """The CVAEs and the policies, each trained, resumed or taken over; a signal ends it early."""
        config, saved_phase = self.config, self.saved.get('phase')
        if saved_phase in ('offline', 'online'):
            self.density_params = jax.tree.map(jnp.asarray, self.saved['density_params'])
        elif config.online.steps and config.online.restore:
            return self.fresh
        elif self.spec.td3.regularizer.uses_density and self.density_params is None:
            state = self.restored('cvae', population.init_cvaes(self.seeds, self.spec))
            state = self.train('cvae', population.cvae_phase, state, config.cvae.steps, 1)
            if self.stop_signal:
                return state
            self.density_params = state.learner.params
        if saved_phase == 'online':
            return self.restored('online', self.fresh)
        state = self.restored('offline', self.fresh)
        return self.train('offline', population.policy_phase, state, config.offline.steps, config.policy_freq)

    def go(self) -> int:
        """Trains, resuming where the checkpoint left off; returns the exit status."""
        with MetricWriter(self.workdir, results.COLUMNS, self.saved.get('metrics_position', 0)) as self.writer:
            state = self.offline()
            if self.config.online.steps and not self.stop_signal:
                if self.saved.get('phase') != 'online':
                    state, self.evaluated_at = started(self.config, state), -1
                make_env = partial(environments.make, self.environment, self.task)
                state = fine_tune(self, state, make_env)
            if self.stop_signal:
                return 128 + self.stop_signal
        environment_id = self.environment.id if self.environment else None
        report = {
            'dataset_id': self.dataset_id,
            'dataset_sha256': self.sha256,
            'environment_id': environment_id,
            'algorithm': results.ALGORITHMS[self.config.regularizer.name],
            'wall_clock_s': self.wall_clock,
            **results.results(self.population, state, self.episodes, environment_id),
        }
        if self.config.online.steps:
            results.add_online(report, self.before, self.online_successes)
        checkpoint.write_atomically(self.workdir / 'results.json', (json.dumps(report, indent=2) + '\n').encode())
        print(results.table(report))
        return 0 if np.asarray(state.alive).any() else ALL_DIVERGED


def run(config: ConfigDict, workdir: Path) -> int:
    """Runs or resumes an experiment; returns the exit status: 0, 3 (all diverged), or 128 + a signal's number."""
    validate(config)
    job = Run(config, workdir)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, job.handle_signal)
    return job.go()
