"""`python -m spot_jax.benchmark.online [--config=FILE.py[:PRESET]] [--json=FILE] [--members=1,4,16] [--workers=1]`.

Environment steps per second of online fine-tuning, of all members together, one update of each member per step: the
overlapped loop, a plain loop without overlap or workers, and each part alone. Everything is measured alternately in
this one process, with random transitions for the dataset; figures are medians over rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting import environments
from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import task_of
from spot_jax.benchmark import files
from spot_jax.benchmark.phases import TRANSITIONS, data_of_rows, random_rows, spot_config
from spot_jax.methods import options as chosen
from spot_jax.population import online, program, sharding
from spot_jax.run.build import build
from spot_jax.run.config import members
from spot_jax.run.finetuning import Collector, options_of
from spot_jax.run.policy import snapshot
from spot_jax.system.arguments import Parser, place, several, whole
from spot_jax.system.backend import require_device
from spot_jax.system.errors import InputError, first_line

CAPACITY = 10_000  # of the ring: its size changes no speed
BLOCKS = 64  # of one round with one member; with M members, BLOCKS / M of them, at least 8


def _spec(environment: str) -> Any:
    try:
        return gym.spec(environment)
    except gym.error.Error as error:
        raise InputError(f'--environment={environment}: {first_line(error)}') from error


class Loops:
    """Fine-tuning of a population on random data: its loop and its parts, each as a function of a number of blocks."""

    def __init__(
        self,
        config: ConfigDict,
        environment: str,
        num_members: int,
        workers: int,
        capacity: int = CAPACITY,
        transitions: int = TRANSITIONS,
    ):
        """`workers` step the overlapped loop's environments; `transitions` are the dataset's."""
        with config.unlocked():
            config.seeds = tuple(range(num_members))
        task, people = task_of(config), members(config)
        make_env = partial(environments.make, _spec(environment), task)
        env = make_env()
        low, high = env.action_space.low, env.action_space.high
        observation_dim = len(env.observation_space.low)
        env.close()
        parts = build(config, observation_dim, len(low))
        scaling = Scaling(np.zeros(observation_dim, np.float32), np.ones(observation_dim, np.float32), low, high)
        algorithm = parts.algorithm
        self.freq, self.shape, self.step = algorithm.block, people.shape, 0
        self.seeds = jnp.arange(num_members, dtype=jnp.uint32)
        row_size = 2 * observation_dim + len(low) + 2
        rows = data_of_rows(random_rows((observation_dim, len(low)), transitions))
        shared: Any = None
        for i, stage in enumerate(parts.stages):
            shared = stage.result(program.init_stage(self.seeds, stage, i).learner, shared)
        mesh = sharding.grid_mesh(self.shape, jax.local_devices())
        state, ring = (
            program.init_policies(self.seeds, 1, algorithm),
            online.empty_ring(self.shape, capacity, row_size),
        )
        placed = online.place(mesh, state, ring, self.seeds, people.hyperparameters(), shared, rows)
        self.state, self.ring, *self.fixed = placed
        self.shared, self.data = self.fixed[2:]
        options = options_of(config)
        self.policies_of = jax.jit(partial(program.grid_of_policies, algorithm))
        self.add, self.act = online.adder(mesh), online.explorer(algorithm, len(low), options)
        self.update = online.online_phase(algorithm, chosen(config).batch_size, options, mesh)
        self.overlapped, self.alone = (Collector(make_env, people, task, scaling, 0, w) for w in (workers, 0))
        self.actions = np.random.default_rng(0).uniform(-1, 1, (num_members, len(low))).astype(np.float32)

    def explore(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """The policies as they are now."""
        policies = self.policies_of(self.state.learner, self.shared, self.fixed[1])
        return online.with_policies(self.act, snapshot(policies), self.seeds)

    def gather(self, collector: Collector, explore: Callable[[np.ndarray, int], np.ndarray]) -> None:
        """A block of experience."""
        rows = collector.block(explore, self.freq, self.step)
        self.ring = self.add(self.ring, jnp.asarray(rows.reshape(self.freq, *self.shape, -1)))
        self.step += self.freq

    def learn(self) -> None:
        """Dispatches a block of updates."""
        self.state, _ = self.update(self.state, self.ring, *self.fixed)

    def finish(self) -> None:
        """Waits for what was dispatched."""
        jax.block_until_ready((self.state, self.ring))

    def loop(self, blocks: int) -> None:
        """As `finetuning.FineTuning` has it: the environments are stepped while the updates run."""
        for _ in range(blocks):
            explore = self.explore()
            self.learn()
            self.gather(self.overlapped, explore)

    def plain_loop(self, blocks: int) -> None:
        """One thing after another, in one process."""
        for _ in range(blocks):
            self.gather(self.alone, self.explore())
            self.learn()
            self.finish()

    def acting(self, blocks: int) -> None:
        """A batched call for each environment step."""
        explore = self.explore()
        for t in range(blocks * self.freq):
            explore(self.alone.observations, t)

    def stepping(self, blocks: int) -> None:
        """All environments in this process, with random actions."""
        for _ in range(blocks):
            self.alone.block(lambda _observations, _step: self.actions, self.freq, self.step)

    def updating(self, blocks: int) -> None:
        """Updates without any experience between them."""
        for _ in range(blocks):
            self.learn()

    def close(self) -> None:
        """Closes the environments."""
        self.overlapped.close()
        self.alone.close()


def measure(config: ConfigDict, environment: str, num_members: int, workers: int, rounds: int) -> dict[str, Any]:
    """One population's row: environment steps per second of all its members."""
    loops = Loops(config, environment, num_members, workers)
    blocks = max(8, BLOCKS // num_members)
    cases = {
        'overlapped': loops.loop,
        'plain': loops.plain_loop,
        'act': loops.acting,
        'step': loops.stepping,
        'update': loops.updating,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    loops.gather(loops.alone, loops.explore())  # there must be something to draw
    for number in range(rounds + 1):
        for name, run in cases.items():
            start = time.monotonic()
            run(blocks if number else 2)
            loops.finish()
            if number:  # the first round compiles
                seconds[name].append(time.monotonic() - start)
    loops.close()
    median = {name: statistics.median(values) / (blocks * loops.freq) for name, values in seconds.items()}
    together = median['act'] + median['step'] + median['update']
    rates = {name: num_members / value for name, value in median.items()}
    return {
        'members': num_members,
        'steps_per_s': rates | {'sum_of_parts': num_members / together},
        'overlapped_over_sum_of_parts': together / median['overlapped'],
        'overlapped_over_plain': median['plain'] / median['overlapped'],
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.benchmark.online', description=__doc__)
    parser.add_argument('--config', default='experiments/antmaze.py:umaze', help='default: %(default)s')
    parser.add_argument('--environment', default='spot_jax/AntMaze-UMaze-v1', help='default: %(default)s')
    parser.add_argument(
        '--members',
        type=several(whole(1, 10_000)),
        default='1,4,16',
        help='how many, of each population; default: %(default)s',
    )
    parser.add_argument(
        '--workers', type=whole(0, 1024), default=1, help='processes of the overlapped loop; default: %(default)s'
    )
    parser.add_argument('--rounds', type=whole(1), default=5, help='default: %(default)s')
    parser.add_argument('--json', type=place, help='a file for the figures')
    parser.add_argument('--overwrite', action='store_true', help='replace it if it is there')

    def body(args: argparse.Namespace) -> None:
        files.require(args, 'json')
        config = spot_config(args.config)
        require_device()
        results = []
        print('environment steps per second of all members:')
        print(
            'members  ' + ''.join(f'{n:>14}' for n in ('overlapped', 'plain', 'sum of parts', 'act', 'step', 'update'))
        )
        for number in args.members:
            row = measure(config, args.environment, number, args.workers, args.rounds)
            results.append(row)
            rates = row['steps_per_s']
            names = ('overlapped', 'plain', 'sum_of_parts', 'act', 'step', 'update')
            print(f'{number:7d}  ' + ''.join(f'{rates[n]:14.1f}' for n in names), flush=True)
        device = f'{jax.devices()[0].device_kind}, {len(jax.devices())}'
        facts = {'device': device, 'environment': args.environment, 'workers': args.workers, 'rounds': args.rounds}
        files.write_json(args.json, facts | {'populations': results})

    return parser.run(argv, body)


if __name__ == '__main__':
    sys.exit(main())
