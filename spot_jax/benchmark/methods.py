"""`--methods`: the updates per second of every method, at its sources' settings, on equal terms."""

import argparse
from typing import Any

from spot_jax.benchmark import products
from spot_jax.benchmark.phases import Case, case, data_of_rows, random_rows, with_settings
from spot_jax.benchmark.timing import measure
from spot_jax.methods import METHODS, options
from spot_jax.run.build import build
from spot_jax.run.config_files import read_config
from spot_jax.system.errors import InputError


def cases(args: argparse.Namespace) -> list[Case]:
    """Each method's policies, by populations of `--members`, one's products alone, and its stages with one member."""
    rows, found = data_of_rows(random_rows(args.sizes)), []
    names = list(filter(args.only.search, METHODS))
    if not names:
        raise InputError(f'--only={args.only.pattern} is the name of no method: {", ".join(METHODS)}')
    for name in names:
        file, _, preset = args.config.partition(':')
        config = with_settings(read_config(f'{file}:{preset},{name}'), seeds=(0,))
        parts = build(config, *args.sizes)
        block = parts.algorithm.block
        steps = lambda members, block=block: max(5, args.steps // members // block) * block
        for members in args.members:
            changed = with_settings(config, seeds=tuple(range(members)))
            found.append(case(f'{name} M={members}', changed, rows, 'policy', args.sizes, steps(members)))
        found.append(products.case(f'{name} | products', config, args.sizes, 'policy', steps(1)))
        found += [case(f'{name} {s.name}', config, rows, s.name, args.sizes, steps(1)) for s in parts.stages]
        print(f'{METHODS[name].title(options(config))}: compiled', flush=True)
    return found


def figures(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What `timing.measure` finds of all of them, in turn."""
    return measure(cases(args), args.rounds)
