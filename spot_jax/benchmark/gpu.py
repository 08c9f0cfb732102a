"""`python -m spot_jax.benchmark --gpu --json=FILE [--limit=SECONDS]`: what a GPU does with this package, in one go.

The cases run one after another, the most telling first; the file is written after each, and what the time limit leaves
out is named in it. A case that fails is a row with its error. Made for a machine without a network.
"""

import gc
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spot_jax.benchmark import files
from spot_jax.benchmark.phases import Case, case, data_of_rows, random_rows, update_flops, with_settings
from spot_jax.benchmark.timing import matmul_rate
from spot_jax.core import xla
from spot_jax.core.method import Data
from spot_jax.methods import spot
from spot_jax.run.config import members
from spot_jax.system.errors import InputError

ROUNDS, ROUND_S = 3, 0.5  # of a case, and the least seconds of one
MATMUL = 8192  # rows and columns of the matrices whose product gives the GPU's rate
POPULATIONS = (4, 16, 64, 256)
TRACED = (1, 64)  # populations
PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')
# XLA's options beside those in use (`xla.compiler_options`), and the members they are tried with.
ALL_COMMANDS = 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE'
OPTIONS: dict[str, dict[str, Any]] = {
    'loops in command buffers': {'xla_gpu_enable_command_buffer': ALL_COMMANDS},
    'loops unrolled in command buffers': {
        'xla_gpu_enable_command_buffer': ALL_COMMANDS,
        'xla_gpu_command_buffer_unroll_loops': True,
    },
    'no command buffers': {'xla_gpu_enable_command_buffer': ''},
    'split-k as XLA likes': {'xla_gpu_experimental_force_split_k': 0},
    'no Triton products': {'xla_gpu_enable_triton_gemm': False},
    'dependent launches': {'xla_gpu_enable_pdl_launch': True},
    'concurrent commands': {'xla_gpu_command_buffer_scheduling_mode': 'CONCURRENT'},
    'loops doubled': {'xla_gpu_enable_while_loop_unrolling': 'WHILE_LOOP_UNROLLING_DOUBLE_BUFFER'},
}


class Report:
    """The rows so far, in a file that is whole after each, and the time that is left."""

    def __init__(self, path: Path | None, limit_s: float, only: re.Pattern[str]):
        self.rows: list[dict[str, Any]] = []
        self.passed_over: list[str] = []  # the cases that `only` does not find
        self._path, self._limit_s, self._only, self._start = path, limit_s, only, time.monotonic()

    def attempt(self, name: str, measure: Callable[[], dict[str, Any]], seconds: float) -> None:
        """Adds what `measure` found, its error, or that it would not fit: it takes about so many seconds."""
        if not self._only.search(name):
            self.passed_over.append(name)
            return
        left = self._limit_s - (time.monotonic() - self._start)
        if left < seconds:
            row: dict[str, Any] = {'left_out': f'{left:.0f} s were left'}
        else:
            try:
                row = measure()
            except Exception as error:  # whatever a library raises, the other cases still count
                row = {'error': f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'}
        gc.collect()  # the arrays of the case
        row = {'case': name} | row | {'at_s': round(time.monotonic() - self._start, 1)}
        self.rows.append(row)
        print(line(row), flush=True)
        if self._path is not None:
            files.write_json(self._path, self.rows)


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    short = {k: f'{v:.4g}' if isinstance(v, float) else v for k, v in row.items() if k not in ('case', 'kernels')}
    return f'{row["case"]:52s} ' + ' '.join(f'{k}={v}' for k, v in short.items())


def timed(case: Case) -> dict[str, Any]:
    """A case's updates per second of all members: the median of `ROUNDS`, after a warm-up."""
    start = time.perf_counter()
    case.run(case.steps)
    calls = max(1, round(ROUND_S / (time.perf_counter() - start)))
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            case.run(case.steps)
        rates.append(calls * case.steps * case.members / (time.perf_counter() - start))
    rate = statistics.median(rates)
    row = {'updates_per_s': rate, 'lowest': min(rates), 'highest': max(rates), 'tflop_per_s': rate * case.flops / 1e12}
    row |= {'compile_s': case.compile_s} if case.compile_s is not None else {}
    return row | ({'memory_mib': case.memory / 2**20} if case.memory is not None else {})


def compiled(config: ConfigDict, args: Any, rows: Data, phase: str, options: dict[str, Any]) -> Case:
    """A phase of a population, all members together, compiled with XLA's options."""
    num_members = len(members(config).members)
    steps = args.steps if num_members < 64 else max(10, args.steps // 5)
    return case('', config, rows, phase, args.sizes, steps, num_members, options)


def population_of(config: ConfigDict, num_members: int, num_samples: int = 1, precision: str = 'float32') -> ConfigDict:
    """So many seeds of a config, with L samples and this precision."""
    seeds = tuple(range(num_members))
    return with_settings(config, seeds=seeds, precision=precision, **{'regularizer.num_samples': num_samples})


def in_use() -> dict[str, Any]:
    """The compiler options that a run on this device gets."""
    return xla.compiler_options(jax.devices()[0].platform)


def tflop_per_s(rate: Callable[[], float]) -> dict[str, float]:
    """A rate as a row."""
    return {'tflop_per_s': rate() / 1e12}


def jax_cases(config: ConfigDict, args: Any, rows: Data, precision: str) -> Iterator[tuple[str, Any]]:
    """CVAE and policy of one member, then the populations."""
    plan = [('cvae', 1, 1), ('policy', 1, 1), ('policy', 10, 1)] if precision == 'float32' else [('policy', 1, 1)]
    for phase, num_samples, num_members in [*plan, *(('policy', 1, m) for m in POPULATIONS)]:
        changed = population_of(config, num_members, num_samples, precision)
        name = f'{phase} L={num_samples} M={num_members} {precision} | spot_jax'
        yield name, lambda changed=changed, phase=phase: timed(compiled(changed, args, rows, phase, in_use()))


def option_cases(config: ConfigDict, args: Any, rows: Data, num_members: int) -> Iterator[tuple[str, Any]]:
    """The policy's update with other options of XLA."""
    changed = population_of(config, num_members)
    for name, options in OPTIONS.items():
        yield (
            f'policy L=1 M={num_members} float32 | {name}',
            lambda options=options: timed(compiled(changed, args, rows, 'policy', in_use() | options)),
        )


def torch_cases(config: ConfigDict, args: Any, rows: np.ndarray) -> Iterator[tuple[str, Any]]:
    """The baselines; `graphed` replays a whole block of compiled updates as one CUDA graph."""
    import torch

    from spot_jax.benchmark.baseline import make_baseline

    cuda = torch.cuda.is_available() and jax.devices()[0].platform == 'gpu'
    device, freq = 'cuda' if cuda else 'cpu', config.policy_freq
    for kind in ('published', 'tuned', *(('graphed',) if cuda else ())):
        for phase, num_samples in (('cvae', 1), ('policy', 1), ('policy', 10)):
            changed = population_of(config, 1, num_samples)
            spec, work = spot.make_spec(changed, *args.sizes), update_flops(changed, args.sizes, phase)
            settings = (config.regularizer.weight, config.cvae.beta, config.discount)

            def measure(
                spec: Any = spec, phase: str = phase, kind: str = kind, settings: Any = settings, work: float = work
            ) -> dict:
                start = time.perf_counter()
                run = make_baseline(spec, rows, settings, kind, phase, args.compile, device)
                run(2)
                compile_s = time.perf_counter() - start
                return timed(Case('', run, max(1, args.steps // 4 // freq) * freq, 1, work, compile_s, None))

            yield f'{phase} L={num_samples} M=1 float32 | torch {kind}', measure


def profile_beside(json_file: Path, num_members: int) -> Path:
    """Where the profile of a population is kept."""
    return json_file.with_suffix(f'.{num_members}.xplane.pb')


def profiles(json_file: Path) -> list[Path]:
    """The profiles that are kept beside the figures."""
    return [profile_beside(json_file, num_members) for num_members in TRACED]


def traced(config: ConfigDict, args: Any, rows: Data, options: dict[str, Any]) -> dict[str, Any]:
    """What the GPU did in a call of the policy's phase, by the profiler: kernels per block, busy share, the longest.

    The profile itself is kept beside `--json`.
    """
    traced_case = compiled(config, args, rows, 'policy', options)
    traced_case.run(traced_case.steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            traced_case.run(traced_case.steps)
        profile = next(Path(folder).rglob('*.xplane.pb'))
        if args.json is not None:
            shutil.copy(profile, profile_beside(args.json, traced_case.members))
        streams = [
            stream
            for plane in jax.profiler.ProfileData.from_file(str(profile)).planes
            if plane.name.startswith('/device:GPU')
            for stream in plane.lines
            if 'stream' in stream.name.lower()
        ]
        events = [(e.start_ns, e.duration_ns, e.name) for stream in streams for e in stream.events]
    blocks = traced_case.steps // config.policy_freq
    row: dict[str, Any] = {'kernels_per_block': len(events) / blocks}
    return row | (busy(events, blocks) | {'kernels': longest(events, blocks)} if events else {})


def busy(events: list[tuple[float, float, str]], blocks: int) -> dict[str, float]:
    """How much of the time from the first kernel's start to the last's end some kernel ran; events: start, ns, name."""
    covered, end = 0.0, 0.0
    for start, duration, _ in sorted(events):
        covered += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    return {'busy_share': covered / (end - min(events)[0]), 'busy_us_per_block': covered / 1e3 / blocks}


def longest(events: list[tuple[float, float, str]], blocks: int, most: int = 25) -> list[dict[str, Any]]:
    """The kernels that took the most time: microseconds and launches in a block."""
    total: dict[str, list[float]] = defaultdict(list)
    for _, duration, name in events:
        total[name[:100]].append(duration)
    first = sorted(total.items(), key=lambda item: -sum(item[1]))[:most]
    return [{'name': n, 'us_per_block': sum(d) / 1e3 / blocks, 'per_block': len(d) / blocks} for n, d in first]


def whole_run(config_file: str, dataset_id: str, num_members: int, steps: int) -> dict[str, Any]:
    """The command line's own run, without evaluations: seconds and updates per second, start-up included or not."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'spot_jax.main', f'--config={config_file}', f'--workdir={folder}/run']
        fields = {
            'dataset_id': dataset_id,
            'seeds': ','.join(map(str, range(num_members))),
            'cvae.steps': steps // 5,
            'offline.steps': steps,
            'evaluation.episodes': 0,
        }
        start = time.perf_counter()
        done = subprocess.run(
            [*command, *(f'--config.{k}={v}' for k, v in fields.items())], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f'status {done.returncode}: {done.stderr[-300:]}')
        clock = json.loads(Path(folder, 'run', 'results.json').read_text())['wall_clock_s']
    return {'seconds': seconds, 'cvae_s': clock['cvae'], 'offline_s': clock['offline'], 'members': num_members}


def measure_all(config: ConfigDict, args: Any) -> list[dict[str, Any]]:
    """Everything, in order of importance, as rows."""
    report, device = Report(args.json, args.limit, args.only), jax.devices()[0]
    packed = random_rows(args.sizes)
    rows = data_of_rows(packed)
    about = {
        'device': device.device_kind,
        'jax': jax.__version__,
        'python': sys.version.split()[0],
        'steps': args.steps,
    }
    report.attempt('machine', lambda: about, 0)
    for precision in PRECISIONS:
        rate = partial(matmul_rate, size=args.matmul, precision=precision)
        report.attempt(f'matmul {args.matmul} {precision}', partial(tflop_per_s, rate), 10)
    for name, measure in jax_cases(config, args, rows, 'float32'):
        report.attempt(name, measure, 40)
    if args.torch:
        for name, measure in torch_cases(config, args, packed):
            report.attempt(name, measure, 40)
    for num_members in TRACED:
        options = in_use() | {'xla_enable_command_buffers_during_profiling': True}
        trace = partial(traced, population_of(config, num_members), args, rows, options)
        report.attempt(f'trace, M={num_members}', trace, 30)
    for name, measure in [pair for m in (1, 64) for pair in option_cases(config, args, rows, m)]:
        report.attempt(name, measure, 25)
    for precision in PRECISIONS[1:]:
        for name, measure in jax_cases(config, args, rows, precision):
            report.attempt(name, measure, 25)
    if args.dataset:
        run = partial(whole_run, args.config, args.dataset, 16, args.steps * 50)
        report.attempt(f'whole run of {args.steps * 50} updates, 16 members', run, 90)
    if not report.rows:
        kinds = ', '.join(dict.fromkeys(name.split()[0].rstrip(',') for name in report.passed_over))
        raise InputError(f'--only={args.only.pattern}: no case is called so: they begin with {kinds}')
    return report.rows
