"""`python -m spot_jax.benchmark [--config=FILE.py[:PRESET]] [--device=cpu] [--json=FILE] [--no-torch] [--members=1,4]`.

`--scaling --plot=FILE.png` measures how an update grows instead, `--methods` every method, `--kernels` counts a GPU's
launches, and `--gpu` is all that one can be asked in ten minutes. Everything is measured alternately in this one
process, on random data of the given sizes; figures are medians over rounds. Updates per second of a population are
those of all members together.
"""

import argparse
import importlib.util
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from spot_jax.benchmark import files, gpu, kernels, methods, products, rounding, scaling
from spot_jax.benchmark.phases import Case, case, data_of_rows, random_rows, spot_config, update_flops, with_settings
from spot_jax.benchmark.timing import measure
from spot_jax.methods import spot
from spot_jax.pictures.style import png
from spot_jax.run.config_files import read_config
from spot_jax.storage.outputs import require_free
from spot_jax.system.arguments import Parser, pattern, place, png_file, several, whole
from spot_jax.system.backend import require_device
from spot_jax.system.errors import InputError, first_line

NO_TORCH = "the baseline needs torch: pip install '.[benchmark]', or leave it out with --no-torch"


def case_name(phase: str, num_samples: int) -> str:
    """What a case of one member is called."""
    return phase if phase == 'cvae' else f'policy L={num_samples}'


def jax_cases(config: ConfigDict, args: argparse.Namespace, rows: np.ndarray) -> list[Case]:
    """spot_jax: CVAE, policy at L = 1 and 10 of one member and the products of each alone, then the populations."""
    on_device, cases = data_of_rows(rows), []
    plan = [('cvae', 1, 1), ('policy', 1, 1), ('policy', 10, 1), *(('policy', 1, m) for m in args.members if m > 1)]
    for phase, num_samples, num_members in plan:
        changed = with_settings(config, seeds=tuple(range(num_members)), **{'regularizer.num_samples': num_samples})
        # Enough that a round's start and end weigh as little as in a run, whose rounds are `log_interval` long.
        steps = max(10, args.steps // num_samples // num_members // config.policy_freq) * config.policy_freq
        name = case_name(phase, num_samples) + (f' M={num_members}' if num_members > 1 else '')
        cases.append(case(f'{name} | spot_jax', changed, on_device, phase, args.sizes, steps))
        if num_members == 1:
            cases.append(products.case(f'{name} | products', changed, args.sizes, phase, steps))
    return cases


def use_device(name: str) -> None:
    """Has JAX compute on this kind of device; raises InputError if there is none."""
    jax.config.update('jax_platforms', name)
    try:
        jax.devices(name)
    except Exception as error:  # each platform raises its own kinds
        raise InputError(f'--device={name}: jax finds no such device; try cpu, or install jax for it') from error


def torch_cases(config: ConfigDict, args: argparse.Namespace, rows: np.ndarray) -> list[Case]:
    """Both baselines: CVAE, policy at L = 1 and 10."""
    import torch

    from spot_jax.benchmark.baseline import make_baseline

    device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError('torch finds no GPU, so the baseline would run on the CPU: install it for CUDA, or --no-torch')
    cases = []
    for phase, num_samples in (('cvae', 1), ('policy', 1), ('policy', 10)):
        changed = with_settings(config, **{'regularizer.num_samples': num_samples})
        spec, work = spot.make_spec(changed, *args.sizes), update_flops(changed, args.sizes, phase)
        for kind in ('published', 'tuned'):
            settings = (config.regularizer.weight, config.cvae.beta, config.discount)
            start = time.perf_counter()
            run = make_baseline(spec, rows, settings, kind, phase, args.compile, device)
            try:
                run(2)
            except Exception as error:  # torch.compile: no compiler, or a compilation that was interrupted before
                advice = '--no-compile leaves torch.compile out, TORCHINDUCTOR_CACHE_DIR=DIR gives it another folder'
                raise InputError(f'the PyTorch baseline fails: {first_line(error)}; {advice}') from error
            steps = max(2, args.steps // num_samples // spec.td3.policy_freq * spec.td3.policy_freq)
            name, compile_s = f'{case_name(phase, num_samples)} | torch {kind}', time.perf_counter() - start
            cases.append(Case(name, run, steps, 1, work, compile_s, None))
    return cases


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people: ratios to the published baseline of the same work, shares of its products."""
    rate = f'{rows[0]["case"]}: {rows[0]["gflop_per_s"]:.0f} GFLOP/s on {jax.devices()[0]}'
    lines = [f'{rate}; GFLOP are those of an update of one member']
    lines.append(
        'case                            updates/s   range          GFLOP  of matmul  products  ratio  compile s  MiB'
    )
    by_name = {row['case']: row for row in rows[1:]}
    for name, row in by_name.items():
        work = name.split(' |')[0].split(' M=')[0]
        published, alone = (by_name.get(f'{work} | {other}') for other in ('torch published', 'products'))
        ratio = f'{row["updates_per_s"] / published["updates_per_s"]:5.2f}' if published else '    -'
        share = f'{100 * row["updates_per_s"] / alone["updates_per_s"]:7.0f}%' if alone else '       -'
        memory = '   -' if row['memory_mib'] is None else f'{row["memory_mib"]:4.0f}'
        lines.append(
            f'{name:30s}  {row["updates_per_s"]:9.1f}  {row["lowest"]:6.1f}-{row["highest"]:6.1f}  '
            f'{row["gflop_per_update"]:5.2f}  {100 * row["share_of_matmul_rate"]:8.0f}%  {share}  {ratio}  '
            f'{row["compile_s"]:9.1f}  {memory}'
        )
    return '\n'.join(lines)


def figures_of(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """What was asked for, as rows for `--json` and as a table for people; raises InputError if torch is missing."""
    config = read_config(args.config) if args.methods else spot_config(args.config)
    if args.device is not None:
        use_device(args.device)
    else:
        require_device()
    if args.kernels:
        counts = kernels.launches(config, args.sizes)
        return counts, kernels.table(counts)
    if args.methods:
        found = methods.figures(args)
        return found, table(found)
    if args.gpu:
        if args.torch and importlib.util.find_spec('torch') is None:
            raise InputError(NO_TORCH)
        return gpu.measure_all(config, args), ''
    if args.scaling:
        figures = scaling.scaling(config, args.sizes, args.steps, args.rounds)
        return figures, scaling.table(figures)
    if args.rounding:
        figures = rounding.losses(config, args.sizes, args.steps)
        return figures, rounding.table(figures)
    if args.torch and importlib.util.find_spec('torch') is None:
        raise InputError(NO_TORCH)
    rows = random_rows(args.sizes)
    cases = jax_cases(config, args, rows) + (torch_cases(config, args, rows) if args.torch else [])
    figures = measure(cases, args.rounds)
    return figures, table(figures)


def benchmark(args: argparse.Namespace) -> None:
    """Measures, prints and writes; raises InputError if a file is there and not to be replaced."""
    args.sizes = (args.observation_dim, args.action_dim)
    files.require(args, 'json', 'plot')
    if args.gpu and args.json is not None:
        require_free(gpu.profiles(args.json), args.overwrite, '--json')
    figures, text = figures_of(args)
    print(text)
    if not args.gpu:
        files.write_json(args.json, figures)
    if args.plot is not None:
        files.write(args.plot, png(scaling.draw(figures)))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.benchmark', description=__doc__)
    parser.add_argument('--config', default='experiments/antmaze.py', help='whose settings; default: %(default)s')
    parser.add_argument('--device', help="JAX's name of it: cpu, cuda, rocm, tpu; the baseline goes to the GPU, too")
    parser.add_argument('--observation-dim', type=whole(1, 100_000), default=29, help='default: %(default)s')
    parser.add_argument('--action-dim', type=whole(1, 10_000), default=8, help='default: %(default)s')
    parser.add_argument(
        '--members', type=several(whole(1, 10_000)), default='1,4,16,64', help='populations; default: %(default)s'
    )
    parser.add_argument(
        '--steps', type=whole(1), default=200, help='updates of one member at L = 1 in a round; default: %(default)s'
    )
    parser.add_argument('--rounds', type=whole(1), default=7, help='default: %(default)s')
    parser.add_argument('--no-torch', dest='torch', action='store_false', help='leave the baselines out')
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='no torch.compile')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--kernels', action='store_true', help="only count a GPU's kernels, by jax's CUDA plugin; no GPU is needed"
    )
    instead.add_argument('--gpu', action='store_true', help='all that a GPU can be asked, within --limit')
    instead.add_argument('--scaling', action='store_true', help='only vary members, L, batch and hidden width')
    instead.add_argument('--methods', action='store_true', help='only every method, at the settings for --config')
    instead.add_argument('--rounding', action='store_true', help='only the losses with rounded products')
    parser.add_argument('--limit', type=whole(60), default=540, help='seconds for --gpu; default: %(default)s')
    parser.add_argument(
        '--only',
        type=pattern,
        default=pattern(''),
        help='of --gpu the cases, of --methods the methods that this regex finds',
    )
    parser.add_argument(
        '--matmul',
        type=whole(1, 65_536),
        default=gpu.MATMUL,
        help='size of the product that --gpu compares with; default: %(default)s',
    )
    parser.add_argument('--dataset', help='a dataset that is there: --gpu also trains 16 members on it')
    parser.add_argument('--plot', type=png_file, help='draw the scaling to this PNG file')
    parser.add_argument('--json', type=place, help='also write the figures to this file')
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')

    def body(args: argparse.Namespace) -> None:
        parser.require_read(args, ('limit', 'matmul', 'dataset'), args.gpu, 'is for --gpu')
        parser.require_read(args, ('only',), args.gpu or args.methods, 'is for --gpu and --methods')
        parser.require_read(args, ('plot',), args.scaling, 'is the picture of --scaling')
        benchmark(args)

    return parser.run(argv, body)


if __name__ == '__main__':
    sys.exit(main())
