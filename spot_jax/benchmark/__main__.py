"""`python -m spot_jax.benchmark [--config=FILE.py[:PRESET]] [--json=FILE] [--no-torch] [--members=1,4,16] [--kernels]`.

Everything is measured alternately in this one process, on random data of the given sizes; figures are medians over
rounds. Updates per second of a population are those of all members together.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax import population
from spot_jax.benchmark import flops, kernels
from spot_jax.build import build_spec
from spot_jax.config import members
from spot_jax.errors import InputError, exit_status
from spot_jax.population import Spec

TRANSITIONS = 100_000
MATMUL = 1024  # rows and columns of the matrices whose product gives the device's rate


class Case(NamedTuple):
    """One thing to measure."""

    name: str
    run: Callable[[int], Any]  # makes that many updates of each member
    steps: int  # of one round
    members: int
    flops: float  # of one update of one member
    compile_s: float | None
    memory: int | None  # bytes, of the compiled program with its arguments


def read_config(text: str) -> ConfigDict:
    """The config of FILE.py[:PRESET]; raises InputError if there is no such file or preset."""
    path, _, preset = text.partition(':')
    spec = importlib.util.spec_from_file_location('benchmarked', path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise InputError(f'--config={text}: there is no such file')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset) if preset else module.get_config()


def random_rows(spec: Spec) -> np.ndarray:
    """Packed transitions of the right sizes, `[N, 2 * O + A + 2]`: standard normal, actions within [-1, 1]."""
    o, a = spec.observation_dim, spec.cvae.action_dim
    rows = np.random.default_rng(0).normal(size=(TRANSITIONS, 2 * o + a + 2)).astype(np.float32)
    rows[:, o : o + a] = np.clip(rows[:, o : o + a], -1, 1)
    rows[:, o + a + 1] = 1.0
    return rows


def compile_phase(
    config: ConfigDict, spec: Spec, rows: jax.Array, phase: str, num_members: int, steps: int
) -> tuple[Callable[[int], Any], float, int]:
    """One phase of a population: how to run `steps` updates, the seconds to compile it, its memory in bytes."""
    with config.unlocked():
        config.seeds = tuple(range(num_members))
    everyone = members(config)
    seeds = jnp.array([seed for seed, _ in everyone.cvaes()], jnp.uint32)
    state = population.init_cvaes(seeds, spec)
    params = state.learner.params
    make = population.cvae_phase
    if phase == 'policy':
        state, make = population.init_policies(seeds, everyone.shape[1], spec), population.policy_phase
    arguments = [seeds, everyone.hyperparameters(), params if phase == 'policy' else None, rows]
    start = time.perf_counter()
    compiled = make(spec, steps).lower(state, *arguments).compile()  # type: ignore[attr-defined]
    compile_s = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    held = [state]

    def run(_: int) -> None:
        held[0], metrics = compiled(held[0], *arguments)
        jax.block_until_ready(metrics)

    return run, compile_s, memory


def jax_cases(config: ConfigDict, args: argparse.Namespace, rows: np.ndarray) -> list[Case]:
    """spot_jax: CVAE, policy at L = 1 and 10 of one member, then the populations."""
    on_device = jnp.asarray(rows)
    cases = []
    plan = [('cvae', 1, 1), ('policy', 1, 1), ('policy', 10, 1), *(('policy', 1, m) for m in args.members if m > 1)]
    for phase, num_samples, num_members in plan:
        config.regularizer.num_samples = num_samples
        spec = build_spec(config, args.observation_dim, args.action_dim)
        steps = max(spec.td3.policy_freq, args.steps // num_samples // num_members // 2 * 2)
        run, compile_s, memory = compile_phase(config, spec, on_device, phase, num_members, steps)
        count = flops.cvae_update(spec) if phase == 'cvae' else flops.policy_update(spec)
        name = phase if phase == 'cvae' else f'policy L={num_samples}'
        name += f' M={num_members}' if num_members > 1 else ''
        cases.append(Case(f'{name} | spot_jax', run, steps, num_members, count, compile_s, memory))
    return cases


def torch_cases(config: ConfigDict, args: argparse.Namespace, rows: np.ndarray) -> list[Case]:
    """Both baselines: CVAE, policy at L = 1 and 10."""
    from spot_jax.benchmark.baseline import Baseline, runner

    cases = []
    for phase, num_samples in (('cvae', 1), ('policy', 1), ('policy', 10)):
        config.regularizer.num_samples = num_samples
        spec = build_spec(config, args.observation_dim, args.action_dim)
        count = flops.cvae_update(spec) if phase == 'cvae' else flops.policy_update(spec)
        name = phase if phase == 'cvae' else f'policy L={num_samples}'
        for kind in ('published', 'tuned'):
            settings = (config.regularizer.weight, config.cvae.beta, config.discount)
            baseline = Baseline(spec, rows, *settings, tuned=kind == 'tuned')
            start = time.perf_counter()
            if kind == 'tuned' and args.compile:
                baseline.compile()
            run = runner(baseline, phase)
            run(2)
            steps = max(2, args.steps // num_samples)
            cases.append(Case(f'{name} | torch {kind}', run, steps, 1, count, time.perf_counter() - start, None))
    return cases


def matmul_rate(rounds: int = 5) -> float:
    """The device's float32 matrix product rate in FLOP/s: the best of `rounds`."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(MATMUL, MATMUL)).astype(np.float32))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(5):
            y = product(x)
        y.block_until_ready()
        seconds.append((time.perf_counter() - start) / 5)
    return 2 * MATMUL**3 / min(seconds)


def measure(cases: list[Case], rounds: int) -> list[dict[str, Any]]:
    """Runs all cases in turn, `rounds` times after a warm-up; the matmul rate is measured before each round."""
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    peaks = []
    for i in range(rounds + 1):
        peaks.append(matmul_rate())
        for case in cases:
            start = time.perf_counter()
            case.run(case.steps)
            if i > 0:
                rates[case.name].append(case.steps * case.members / (time.perf_counter() - start))
    peak = statistics.median(peaks)
    rows = []
    for case in cases:
        rate = statistics.median(rates[case.name])
        share = rate * case.flops / peak
        rows.append(
            {
                'case': case.name,
                'updates_per_s': rate,
                'lowest': min(rates[case.name]),
                'highest': max(rates[case.name]),
                'gflop_per_update': case.flops / 1e9,
                'share_of_matmul_rate': share,
                'compile_s': case.compile_s,
                'memory_mib': None if case.memory is None else case.memory / 2**20,
            }
        )
    return [{'case': f'matmul {MATMUL}', 'gflop_per_s': peak / 1e9}, *rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people; ratios are to the published baseline of the same work."""
    lines = [f'{rows[0]["case"]}: {rows[0]["gflop_per_s"]:.0f} GFLOP/s on {jax.devices()[0]}']
    lines.append('case                            updates/s   range          GFLOP  of matmul  ratio  compile s  MiB')
    by_name = {row['case']: row for row in rows[1:]}
    for name, row in by_name.items():
        published = by_name.get(f'{name.split(" |")[0].split(" M=")[0]} | torch published')
        ratio = f'{row["updates_per_s"] / published["updates_per_s"]:5.2f}' if published else '    -'
        memory = '   -' if row['memory_mib'] is None else f'{row["memory_mib"]:4.0f}'
        lines.append(
            f'{name:30s}  {row["updates_per_s"]:9.1f}  {row["lowest"]:6.1f}-{row["highest"]:6.1f}  '
            f'{row["gflop_per_update"]:5.2f}  {100 * row["share_of_matmul_rate"]:8.0f}%  {ratio}  '
            f'{row["compile_s"]:9.1f}  {memory}'
        )
    return '\n'.join(lines)


def benchmark(args: argparse.Namespace) -> None:
    """Measures and prints; raises InputError if a file is there already or torch is missing."""
    if args.json is not None and args.json.exists():
        raise InputError(f'--json={args.json} is there already: choose another file')
    config = read_config(args.config)
    if args.kernels:
        counts = kernels.launches(config, (args.observation_dim, args.action_dim))
        print(kernels.table(counts))
        if args.json is not None:
            args.json.write_text(json.dumps(counts, indent=2) + '\n')
        return
    if args.torch and importlib.util.find_spec('torch') is None:
        raise InputError("the baseline needs torch: pip install '.[benchmark]', or leave it out with --no-torch")
    rows = random_rows(build_spec(config, args.observation_dim, args.action_dim))
    cases = jax_cases(config, args, rows) + (torch_cases(config, args, rows) if args.torch else [])
    figures = measure(cases, args.rounds)
    print(table(figures))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + '\n')


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m spot_jax.benchmark', description=__doc__)
    parser.add_argument('--config', default='experiments/antmaze.py', help='whose settings and network sizes')
    parser.add_argument('--observation-dim', type=int, default=29)
    parser.add_argument('--action-dim', type=int, default=8)
    parser.add_argument('--members', type=lambda s: [int(m) for m in s.split(',')], default=[1, 4, 16])
    parser.add_argument('--steps', type=int, default=200, help='updates of one member at L = 1 in a round')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--no-torch', dest='torch', action='store_false', help='leave the baselines out')
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='no torch.compile')
    parser.add_argument('--kernels', action='store_true', help='only count the kernels of a GPU (none is needed)')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args(argv)
    return exit_status(lambda: benchmark(args))


if __name__ == '__main__':
    sys.exit(main())
