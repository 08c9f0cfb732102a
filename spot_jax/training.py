"""A run from start to end: data, CVAEs, policies, evaluations, checkpoints and results. The only file with loops."""

import importlib.metadata
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

from spot_jax import checkpoint, environments, evaluation, policy, population
from spot_jax.config import members, validate
from spot_jax.datasets import Dataset, load
from spot_jax.errors import InputError
from spot_jax.metrics import MetricWriter
from spot_jax.networks import CVAE, Actor, DoubleCritic
from spot_jax.population import PhaseState, Spec
from spot_jax.regularizers import REGULARIZERS
from spot_jax.tasks import TASKS
from spot_jax.td3 import TD3, Hyperparameters

ALL_DIVERGED = 3
TRAINING_METRICS = [
    'cvae_loss',
    'recon_loss',
    'kl_loss',
    'critic_loss',
    'q',
    'actor_loss',
    'actor_q',
    'q_magnitude',
    'penalty',
]
EVALUATION_METRICS = ['return', 'length', 'success_rate', 'normalized_score']
LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'gymnasium', 'gymnasium-robotics', 'minari', 'mujoco')


def build_spec(config: ConfigDict, dataset: Dataset) -> Spec:
    """The static facts of a run, from its config and dataset."""
    a = dataset.action_dim
    cvae = CVAE(a, tuple(config.cvae.hidden_dims), config.cvae.latent_dim)
    reg = config.regularizer
    td3 = TD3(
        Actor(a, tuple(config.actor.hidden_dims), config.actor.output_init, config.actor.dropout),
        DoubleCritic(tuple(config.critic.hidden_dims), config.critic.output_init),
        REGULARIZERS[reg.name](cvae, reg.estimator, reg.num_samples),
        config.policy_freq,
        config.normalize_q,
    )
    return Spec(cvae, td3, dataset.observation_dim, config.batch_size, config.cvae.lr)


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


def open_workdir(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Makes the run's folder, or returns the checkpoint to resume from; raises InputError if it is another run's."""
    text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + '\n'
    path = workdir / 'config.json'
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            checkpoint.write_atomically(path, text.encode())
            return None
    except OSError as error:
        raise InputError(f'cannot write in --workdir={workdir}: {error.strerror}') from error
    theirs, ours = json.loads(path.read_text()), json.loads(text)
    if theirs != ours:
        names = [k for k in ours if theirs.get(k) != ours[k]]
        raise InputError(
            f'{workdir} holds a run of another config (differs in {", ".join(names)}): choose another --workdir'
        )
    state, damaged = checkpoint.restore(workdir / 'checkpoints')
    for name in damaged:
        print(f'checkpoint {name} is damaged: going on from the one before it', file=sys.stderr)
    return state


class Run:
    """The shell around the pure phases: everything that a checkpoint holds, and where it is written."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir, self.task = config, workdir, TASKS[config.task]
        dataset = load(config.dataset_id, self.task)
        self.dataset_id, self.sha256, self.environment = dataset.dataset_id, dataset.sha256, dataset.environment
        self._check_environment(dataset)
        self.spec = build_spec(config, dataset)
        self.members = members(config)
        cvaes = {(m.seed, m.hyperparameters['beta']) for m in self.members}
        self.shape = (len(cvaes), len(self.members) // len(cvaes))
        self.seeds = jnp.array([m.seed for m in self.members], jnp.uint32).reshape(self.shape)[:, 0]
        values = [[m.hyperparameters[n] for m in self.members] for n in Hyperparameters._fields]
        self.hypers = Hyperparameters(*(jnp.array(v, jnp.float32).reshape(self.shape) for v in values))
        self.scaling = normalize(dataset, config.normalize_observations)
        self.act = policy.batched_act(self.spec.td3.actor)
        self.saved = open_workdir(config, workdir)
        if self.saved is not None and self.saved['sha256'] != self.sha256:
            raise InputError(
                f'{config.dataset_id} has changed since the run in {workdir} began: choose another --workdir'
            )
        self.rows = jnp.asarray(dataset.transitions)
        self.density_params: Any = None
        self.wall_clock: dict[str, float] = {}
        self.episodes: evaluation.Episodes | None = None
        self.evaluated_at = 0
        self.stop_signal = 0

    def _check_environment(self, dataset: Dataset) -> None:
        if self.config.evaluation.episodes == 0 or self.environment is None:
            self.environment = None
            print('this run is not evaluated: no episodes are asked for, or the dataset names no environment')
            return
        env = environments.make(self.environment, self.task)
        environments.check(env, dataset.transitions, dataset.action_low, dataset.action_high)
        env.close()

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Asks the loop to checkpoint and stop."""
        del frame
        self.stop_signal = number

    def save(self, phase: str, state: PhaseState) -> None:
        """Writes a checkpoint of everything that matters."""
        step = int(state.block) + (0 if phase == 'cvae' else 10**9)
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
            'episodes': {k: v for k, v in self.episodes._asdict().items() if v is not None} if self.episodes else {},
        }
        checkpoint.save(self.workdir / 'checkpoints', step, jax.device_get(tree), self.config.checkpoint.keep)

    def restored(self, phase: str, fresh: PhaseState) -> PhaseState:
        """`fresh`, or what the checkpoint has of this phase."""
        if self.saved is None or self.saved['phase'] != phase:
            return fresh
        fields = {
            k: serialization.from_state_dict(getattr(fresh, k), self.saved[k]) for k in PhaseState.__annotations__
        }
        return jax.tree.map(jnp.asarray, PhaseState(**fields))

    def per_member(self, values: Any) -> np.ndarray:
        """One value per member, `[C * P]`, from those of the CVAEs [C] or of the policies [C, P]."""
        return np.broadcast_to(np.asarray(values).reshape(self.shape[0], -1), self.shape).ravel()

    def rows_of(self, phase: str, state: PhaseState) -> list[dict[str, Any]]:
        """The columns that every row of metrics starts with, for all members."""
        steps = self.per_member(state.gradient_steps)
        return [
            {'phase': phase, 'gradient_steps': int(n), 'member': i, 'seed': m.seed, **m.hyperparameters}
            for i, (m, n) in enumerate(zip(self.members, steps, strict=True))
        ]

    def log(self, phase: str, state: PhaseState, metrics: dict[str, jax.Array]) -> None:
        """A row of training metrics for every member that is still alive."""
        values = jax.device_get(metrics)
        alive = self.per_member(state.alive)
        rows = self.rows_of(phase, state)
        for name, value in values.items():
            for row, v in zip(rows, self.per_member(value), strict=True):
                row[f'training/{name}'] = float(v)
        self.writer.write([row for row, ok in zip(rows, alive, strict=True) if ok])

    def evaluate(self, state: PhaseState, step: int, bar: tqdm) -> None:
        """Evaluates all members, unless told to stop on the way."""
        start = time.monotonic()
        params = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.learner.actor.params)
        options = self.config.evaluation
        episodes = evaluation.evaluate(
            lambda observations: self.act(params, observations, self.scaling),
            partial(environments.make, self.environment, self.task),
            len(self.members),
            options.episodes,
            options.seed,
            self.task.is_maze,
            lambda: self.stop_signal != 0,
        )
        if episodes is None:
            return
        self.episodes, self.evaluated_at = episodes, step
        rows, results = self.rows_of('offline', state), []
        for i, row in enumerate(rows):
            result = evaluation.summary(episodes, i, self.environment.id)
            results.append(result)
            row['evaluation/return'] = float(np.mean(result['returns']))
            row['evaluation/length'] = float(np.mean(result['lengths']))
            for name in ('success_rate', 'normalized_score'):
                row[f'evaluation/{name}'] = '' if result[name] is None else result[name]
        self.writer.write([{k: v for k, v in row.items() if v != ''} for row in rows])
        scores = ' '.join(
            f'{r["success_rate"]:.2f}' if r['success_rate'] is not None else f'{np.mean(r["returns"]):.1f}'
            for r in results
        )
        what = 'success' if self.task.is_maze else 'return'
        bar.write(f'offline {step}: {what} of each member {scores}', file=sys.stdout)
        self.wall_clock['evaluation'] = self.wall_clock.get('evaluation', 0.0) + time.monotonic() - start

    def train(self, phase: str, make: Any, state: PhaseState, steps: int, steps_per_block: int) -> PhaseState:
        """Runs a phase to its end, or to a signal."""
        evaluates = phase == 'offline' and self.environment is not None
        evaluation_interval = self.config.evaluation.interval if evaluates else 0
        intervals = [self.config.log_interval, self.config.checkpoint.interval, evaluation_interval]
        chunk = math.gcd(steps, *(i for i in intervals if 0 < i < steps))
        run = make(self.spec, chunk)

        def due(interval: int, step: int) -> bool:
            return step > 0 and (step == steps or (interval > 0 and step % interval == 0))

        saved_at = step = int(state.block) * steps_per_block
        with tqdm(total=steps, initial=step, desc=phase, unit=' updates', disable=not sys.stdout.isatty()) as bar:
            pending: list[Any] = []
            while True:
                if evaluates and due(evaluation_interval, step) and self.evaluated_at != step and not self.stop_signal:
                    self.evaluate(state, step, bar)
                if (self.stop_signal or due(self.config.checkpoint.interval, step)) and (
                    saved_at != step or step == steps
                ):
                    self.save(phase, state)
                    saved_at = step
                if self.stop_signal or step >= steps or not np.asarray(state.alive).any():
                    return state
                start = time.monotonic()
                state, metrics = run(state, self.seeds, self.hypers, self.density_params, self.rows)
                pending.append(metrics)
                step += chunk
                bar.update(chunk)
                if due(self.config.log_interval, step) or due(self.config.checkpoint.interval, step):
                    self.log(phase, state, jax.tree.map(lambda *xs: jnp.mean(jnp.stack(xs), axis=0), *pending))
                    pending = []
                self.wall_clock[phase] = self.wall_clock.get(phase, 0.0) + time.monotonic() - start

    def results(self, state: PhaseState) -> dict[str, Any]:
        """What `results.json` holds."""
        environment_id = self.environment.id if self.environment else None
        listed = []
        for i, m in enumerate(self.members):
            found = self.episodes is not None
            empty = {'returns': None, 'lengths': None, 'success_rate': None, 'normalized_score': None}
            listed.append(
                {
                    'seed': m.seed,
                    'hyperparameters': m.hyperparameters,
                    'status': 'completed' if np.asarray(state.alive).ravel()[i] else 'diverged',
                    'gradient_steps': int(np.asarray(state.gradient_steps).ravel()[i]),
                    'evaluation': evaluation.summary(self.episodes, i, environment_id) if found else empty,
                }
            )
        return {
            'dataset_id': self.dataset_id,
            'dataset_sha256': self.sha256,
            'environment_id': environment_id,
            'algorithm': {'none': 'TD3', 'bc': 'TD3+BC', 'support': 'SPOT'}[self.config.regularizer.name],
            'members': listed,
            'wall_clock_s': self.wall_clock,
            'versions': {name: importlib.metadata.version(name) for name in LIBRARIES},
        }

    def go(self) -> int:
        """Trains, resuming where the checkpoint left off; returns the exit status."""
        columns = ['phase', 'gradient_steps', 'member', 'seed', *Hyperparameters._fields]
        columns += [f'training/{n}' for n in TRAINING_METRICS] + [f'evaluation/{n}' for n in EVALUATION_METRICS]
        position = 0
        if self.saved is not None:
            position, self.wall_clock = self.saved['metrics_position'], self.saved['wall_clock']
            self.evaluated_at = self.saved['evaluated_at']
            if self.saved['episodes']:
                kept = self.saved['episodes']
                self.episodes = evaluation.Episodes(kept['returns'], kept['lengths'], kept.get('successes'))
        with MetricWriter(self.workdir, columns, position) as self.writer:
            if self.spec.td3.regularizer.uses_density:
                if self.saved is None or self.saved['phase'] == 'cvae':
                    fresh = population.init_cvaes(self.seeds, self.spec)
                    state = self.restored('cvae', fresh)
                    state = self.train('cvae', population.cvae_phase, state, self.config.cvae.steps, 1)
                    if self.stop_signal:
                        return 128 + self.stop_signal
                    self.density_params = state.learner.params
                else:
                    self.density_params = jax.tree.map(jnp.asarray, self.saved['density_params'])
            state = self.restored('offline', population.init_policies(self.seeds, self.shape[1], self.spec))
            freq = self.config.policy_freq
            state = self.train('offline', population.policy_phase, state, self.config.offline.steps, freq)
            if self.stop_signal:
                return 128 + self.stop_signal
        results = self.results(state)
        checkpoint.write_atomically(self.workdir / 'results.json', (json.dumps(results, indent=2) + '\n').encode())
        print_table(results)
        return 0 if any(m['status'] == 'completed' for m in results['members']) else ALL_DIVERGED


def print_table(results: dict[str, Any]) -> None:
    """Prints a line per member."""
    print(
        f'\n{results["algorithm"]} on {results["dataset_id"]}\nmember  seed  weight  status     return   success  score'
    )
    for i, m in enumerate(results['members']):
        e = m['evaluation']
        cells = [np.mean(e['returns']) if e['returns'] else None, e['success_rate'], e['normalized_score']]
        text = '  '.join('      -' if c is None else f'{c:7.2f}' for c in cells)
        print(f'{i:6d}  {m["seed"]:4d}  {m["hyperparameters"]["regularizer_weight"]:6g}  {m["status"]:9s}  {text}')


def run(config: ConfigDict, workdir: Path) -> int:
    """Runs or resumes an experiment; returns the exit status: 0, 3 (all diverged), or 128 + a signal's number."""
    validate(config)
    job = Run(config, workdir)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, job.handle_signal)
    return job.go()
