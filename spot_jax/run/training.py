"""A run from start to end: data, stages, policies, evaluations, checkpoints and results."""

import contextlib
import copy
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from ml_collections import ConfigDict, FrozenConfigDict
from tqdm import tqdm

from spot_jax.acting import environments
from spot_jax.acting.env_pool import MakeEnv, bounded
from spot_jax.acting.tasks import task_of
from spot_jax.core.method import Stage
from spot_jax.data.load import Dataset, held_id, load
from spot_jax.methods import options
from spot_jax.population import program, sharding
from spot_jax.population.program import Phase, PhaseState
from spot_jax.recipes import provide
from spot_jax.run import footprint, restore, results
from spot_jax.run.build import build, data_of, prepare, selection_of
from spot_jax.run.config import goes_on, lookup, members, validate
from spot_jax.run.effects import read_paths, require_that_grids_are_read
from spot_jax.run.evaluations import Evaluations
from spot_jax.run.finetuning import FineTuning, started
from spot_jax.run.workdir import PHASE_NUMBERS, open_workdir, policy_shapes, without_broken
from spot_jax.storage import checkpoint, folder
from spot_jax.storage.metrics import MetricWriter
from spot_jax.storage.wandb_runs import WandbRuns, require_ready
from spot_jax.system.backend import require_device
from spot_jax.system.errors import ALL_DIVERGED, InputError
from spot_jax.system.workers import STOPS, refuse_a_rerun, require_guard


class Run:
    """The shell around the pure phases: everything that a checkpoint holds, and where it is written."""

    def __init__(self, config: ConfigDict, workdir: Path, source: Any = None):
        self.config, self.workdir, self.task = config, workdir, task_of(config)
        if config.wandb.project is not None:
            require_ready(config.wandb.project)  # before anything is written
        selection = selection_of(config)
        if source is None:
            provide(config.dataset_id)
        self.held = source is not None  # the data, by Python
        dataset = load(config.dataset_id if source is None else source, self.task, config.clip_actions, selection)
        self.dataset_id, self.sha256, self.environment = dataset.dataset_id, dataset.sha256, dataset.environment
        self.reference, self.size = dataset.reference, (len(dataset.lengths), len(dataset.transitions))
        self.make_env = self._checked_environment(dataset)
        footprint.check(config, (dataset.observation_dim, dataset.action_dim), len(dataset.transitions))
        sizes = dataset.observation_dim, dataset.action_dim
        self.parts, self.population = build(config, *sizes), members(config)
        self.seeds, self.hypers = self.population.seeds(), self.population.hyperparameters()
        self.shared: Any = None  # what the stages came to, [C]
        self.taken = 0  # of the stages, those that are another run's
        self.shared_alive = np.ones(self.population.shape[0], bool)  # [C], whose stages have not diverged
        self.fresh = program.init_policies(self.seeds, self.population.shape[1], self.parts.algorithm)
        self.saved = open_workdir(config, workdir, sizes, self.sha256, self._take_over) or {}
        self.shared_alive = self.saved.get('cvae_alive', self.shared_alive)
        self.scaling, self.rewards = prepare(dataset, options(config))
        discount = self.parts.method.returns_discount(options(config))
        self.data = sharding.replicate(data_of(dataset, discount), jax.local_devices())
        self.wall_clock: dict[str, float] = self.saved.get('wall_clock', {})
        self.evaluations = Evaluations(
            config,
            self.population,
            self.make_env,
            self.reference,
            self.task,
            self.parts.algorithm,
            self.hypers,
            self.scaling,
            self.saved,
            partial(policy_shapes, config, sizes),
        )
        self.stop_signal = 0
        self.failure: InputError | None = None  # of the online phase's environments

    def _take_over(self) -> None:
        """What the run has from another: its stages, or all that it has learned."""
        config, stages = self.config, self.parts.stages
        if goes_on(config):
            taken = restore.restored_policies(config, self.sha256, self.fresh, stages)
            self.fresh, self.shared, self.shared_alive = taken
        elif restore.stages_folder(config) and stages:
            self.shared, self.taken = restore.restored_stages(config, self.population, stages, self.sha256)

    def _checked_environment(self, dataset: Dataset) -> MakeEnv | None:
        """What makes the run's environments; None if it needs none, and then none is made."""
        options = self.config.evaluation
        if self.environment is None and self.config.online.steps:
            raise InputError(f'{self.dataset_id} names no environment to fine-tune in: leave config.online.steps at 0')
        if self.environment is None or options.episodes == 0:
            print('this run is not evaluated: no episodes are asked for, or the dataset names no environment')
        if self.environment is None or not (options.episodes or self.config.online.steps):
            return None
        make_env = environments.maker(self.environment, self.task, options.trust_environment, options.max_episode_steps)
        with contextlib.chdir('.'):  # an environment may go elsewhere
            bounded(partial(_check, make_env, dataset), options.timeout)
        return make_env

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Asks the loop to checkpoint and stop; a second signal ends the process at once."""
        del frame
        self.stop_signal = number
        signal.signal(number, signal.SIG_DFL)

    def stopping(self) -> bool:
        """Whether a signal asked to stop, or an environment failed again and again: a checkpoint is written first."""
        return self.stop_signal != 0 or self.failure is not None or self.evaluations.failure is not None

    def timings(self) -> dict[str, float]:
        """Seconds spent in each phase so far; evaluations overlap with the others."""
        before = self.saved.get('wall_clock', {}).get('evaluation', 0.0)
        found = {'evaluation': before + self.evaluations.seconds} if self.evaluations.enabled else {}
        return dict(sorted((self.wall_clock | found).items()))  # a checkpoint's are sorted: the same order after one

    def save(self, phase: str, state: PhaseState, **more: Any) -> None:
        """Writes a checkpoint of everything that matters."""
        tree = {
            'phase': phase,
            'learner': state.learner,
            'alive': state.alive,
            'gradient_steps': state.gradient_steps,
            'block': state.block,
            'density_params': self.shared or {},
            'scaling': self.scaling._asdict(),
            'cvae_alive': self.shared_alive,
            'sha256': self.sha256,
            **self.writer.sync(),
            'wall_clock': self.timings(),
            **self.evaluations.arrays(),
            **more,
        }
        number = int(state.block) + self.parts.phases().index(phase) * PHASE_NUMBERS
        checkpoint.save(self.workdir / 'checkpoints', number, jax.device_get(tree), self.config.checkpoint.keep)

    def restored(self, phase: str, fresh: PhaseState) -> PhaseState:
        """`fresh`, or what the checkpoint has of this phase."""
        if self.saved.get('phase') != phase:
            return fresh
        fields = {
            k: serialization.from_state_dict(getattr(fresh, k), self.saved[k]) for k in PhaseState.__annotations__
        }
        return jax.tree.map(jnp.asarray, PhaseState(**fields))

    def train(self, phase: str, make: Callable[[int], Phase], state: PhaseState, steps: int, block: int) -> PhaseState:
        """Runs a phase to its end, until all members have diverged, or until a signal."""
        config, evaluations = self.config, self.evaluations
        evaluates = phase == 'offline' and evaluations.enabled
        intervals = [config.log_interval, config.checkpoint.interval, config.evaluation.interval * evaluates]
        chunk = math.gcd(*(i for i in intervals if 0 < i < steps)) or steps
        program_of = cache(make)  # one for whole chunks; others end a length, or a run made longer, in their midst
        state = sharding.replicate(state, jax.local_devices())

        def due(interval: int, step: int) -> bool:
            return step > 0 and (step == steps or (interval > 0 and step % interval == 0))

        step = int(state.block) * block
        saved = (step, evaluations.at) if self.saved.get('phase') == phase else None
        was_alive = self.population.per_member(state.alive)
        pending: list[tuple[int, Any]] = []  # steps and metrics of chunks that are not logged yet
        with tqdm(total=steps, initial=step, desc=phase, unit=' updates', disable=not sys.stdout.isatty()) as bar:
            while True:
                stop = self.stopping() and not pending
                evaluation_due = evaluates and due(config.evaluation.interval, step)
                if stop or step >= steps or due(config.checkpoint.interval, step) or evaluation_due:
                    state = without_broken(state)
                alive = self.population.per_member(state.alive)
                for member in np.flatnonzero(was_alive & ~alive):
                    bar.write(f'{phase} {step}: member {member} has diverged and is frozen', file=sys.stdout)
                was_alive = alive
                evaluations.collect()
                done = step >= steps or not alive.any()
                evaluate = evaluates and evaluations.at != step and (done or evaluation_due)
                if evaluate and done and not stop:
                    evaluations.launch(phase, state, self.shared, step, self.stopping)
                if stop or done or due(config.checkpoint.interval, step):
                    evaluations.finish(step, self.stopping)
                    if saved != (step, evaluations.at):
                        self.save(phase, state)
                        saved = (step, evaluations.at)
                if stop or done:
                    return state
                if evaluate:
                    evaluations.launch(phase, state, self.shared, step, self.stopping)
                start = time.monotonic()
                length = min(chunk - step % chunk, steps - step)
                state, metrics = program_of(length)(state, self.seeds, self.hypers, self.shared, self.data)
                jax.block_until_ready(state.alive)  # which comes to the host next
                pending.append((length, metrics))
                step += length
                bar.update(length)
                if due(config.log_interval, step) or due(config.checkpoint.interval, step):
                    evaluations.log(results.training_rows(self.population, phase, state, _mean(pending)))
                    pending = []
                self.wall_clock[phase] = self.wall_clock.get(phase, 0.0) + time.monotonic() - start

    def train_stage(self, index: int, stage: Stage) -> bool:
        """Trains what the members share, or goes on with it; whether it came to its end."""
        state = self.restored(stage.name, program.init_stage(self.seeds, stage, index))
        state = state.replace(alive=state.alive & self.shared_alive)
        make = partial(program.stage_phase, stage, index=index, precision=self.config.precision)
        state = self.train(stage.name, make, state, stage.num_steps, stage.block)
        if self.stopping():
            return False
        self.shared, self.shared_alive = stage.result(state.learner, self.shared), np.asarray(state.alive)
        # A policy whose stages have diverged would learn from nothing that means anything: it has diverged with it.
        self.fresh = self.fresh.replace(alive=self.fresh.alive & self.shared_alive[:, None])
        return True

    def offline(self) -> PhaseState:
        """The stages and the policies, each trained, resumed or taken over; a signal ends it early."""
        config, saved_phase, phases = self.config, self.saved.get('phase'), self.parts.phases()
        done = phases.index(saved_phase) if saved_phase else 0
        if done:
            self.shared = jax.tree.map(jnp.asarray, self.saved['density_params'])
        elif goes_on(config):
            return self.fresh
        for index, stage in list(enumerate(self.parts.stages))[max(done, self.taken) :]:
            if not self.train_stage(index, stage):
                return self.fresh
        if saved_phase == 'online':
            return self.restored('online', self.fresh)
        algorithm = self.parts.algorithm
        state = self.restored('offline', self.fresh)
        make = partial(program.policy_phase, algorithm, precision=config.precision)
        return self.train('offline', make, state, config.offline.steps, algorithm.block)

    def copies(self) -> list[Callable[[list[Any]], WandbRuns]]:
        """What writes the metrics elsewhere, too."""
        project = self.config.wandb.project
        if project is None:
            return []
        read = {path: lookup(self.config, path) for path in read_paths(self.config)}
        identities = [results.identity(member) for member in self.population.members]
        return [partial(WandbRuns, self.workdir, project, read, identities)]

    def go(self) -> int:
        """Trains, resuming where the checkpoint left off; returns the exit status."""
        position = self.saved.get('metrics_position', 0)
        columns = results.columns(self.parts.method, options(self.config))
        with self.evaluations, MetricWriter(self.workdir, columns, position, self.copies()) as self.writer:
            self.evaluations.writer = self.writer
            self.evaluations.resume()
            state = self.offline()
            if self.config.online.steps and not self.stopping():
                if self.saved.get('phase') != 'online':
                    state, self.evaluations.at = started(self.config, state), -1
                assert self.make_env is not None
                state = FineTuning(self, state, self.make_env).go()
            failure = self.failure or self.evaluations.failure
            if failure is not None:
                raise failure
            if self.stop_signal:
                print('stopped: a checkpoint is written, from which the same command goes on')
                return 128 + self.stop_signal
        shared_alive = self.shared_alive if self.parts.stages else None
        report = {
            'dataset_id': self.dataset_id,
            'dataset_sha256': self.sha256,
            'dataset_episodes': self.size[0],
            'dataset_transitions': self.size[1],
            'dataset_held': self.held,
            'environment_id': self.environment.id if self.environment else None,
            'environment': json.loads(self.environment.to_json()) if self.environment else None,
            'reference_returns': self.reference._asdict() if self.reference else None,
            'algorithm': self.parts.method.title(options(self.config)),
            'wall_clock_s': self.timings(),
            **results.results(self.population, state, shared_alive, self.evaluations.episodes, self.reference),
        }
        if self.config.online.steps:
            results.add_online(report, self.evaluations.before, self.evaluations.online_successes, self.reference)
        checkpoint.write_atomically(self.workdir / 'results.json', (json.dumps(report, indent=2) + '\n').encode())
        print(results.table(report))
        return 0 if np.asarray(state.alive).any() else ALL_DIVERGED


def _mean(parts: Sequence[tuple[int, Any]]) -> Any:
    """The mean of metrics over all steps, from those of each part and its number of steps."""
    total = sum(steps for steps, _ in parts)
    shares = [steps / total for steps, _ in parts]
    return jax.tree.map(lambda *xs: sum(s * x for s, x in zip(shares, xs, strict=True)), *(m for _, m in parts))


def _check(make_env: MakeEnv, dataset: Dataset) -> None:
    with contextlib.closing(make_env()) as env:
        environments.check(env, dataset.transitions, dataset.action_low, dataset.action_high, dataset.layout)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles the signals to stop, if this is the thread that may, and puts back what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def run(config: ConfigDict, workdir: str | Path, dataset: Any = None) -> int:
    """Runs or resumes an experiment; returns the exit status: 0, 3 (all diverged), or 128 + a signal's number.

    `dataset` is a `minari.MinariDataset`, also filtered or split, to learn from instead of the one that the config
    names. To resume, give the same again. In the main thread SIGINT and SIGTERM end the run, once a checkpoint is
    written; afterwards they do what they did before. Raises InputError if anything that was given makes no sense, an
    environment too.
    """
    refuse_a_rerun()
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    workdir = folder.place_of(workdir)
    if dataset is not None:
        config = copy.deepcopy(config)
        config.dataset_id = held_id(dataset)
    validate(config)
    require_that_grids_are_read(config)
    config = restore.with_population(config, workdir)
    require_device()
    footprint.check(config)
    if config.online.workers or (config.evaluation.workers and config.evaluation.episodes):
        require_guard()
    place = workdir.absolute()  # environments of this process may go elsewhere later, too
    with folder.held(place):
        job = Run(config, place, dataset)
        print(f'the run is in {workdir}: the same again resumes it', flush=True)
        with _handled(job.handle_signal):
            return job.go()
