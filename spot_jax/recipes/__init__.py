"""The datasets that are made on the spot: id to recipe."""

import difflib
import os
import sys

from spot_jax.data.store import Recipe, Request, check_id, make_once, root
from spot_jax.recipes import antmaze, locomotion, pointmaze
from spot_jax.system.arguments import MAX_SEED
from spot_jax.system.errors import InputError
from spot_jax.system.workers import refuse_a_rerun

RECIPES: dict[str, Recipe] = pointmaze.RECIPES | antmaze.RECIPES | locomotion.RECIPES
RETIRED = antmaze.RETIRED  # id to the one that took its place
MAX_TRANSITIONS = 10**8
MAX_WORKERS = 8  # unless more are asked for


def generate(
    dataset_id: str, transitions: int | None = None, seed: int = 0, overwrite: bool = False, workers: int | None = None
) -> None:
    """Makes a recipe's dataset; the same seed gives the same data, whatever the number of workers (None: one per CPU).

    It appears whole or not at all. Raises InputError if the id is no recipe's, or is taken and not to be overwritten.
    """
    refuse_a_rerun()
    if dataset_id in RETIRED:
        raise InputError(f'{dataset_id} is made no more: generate {RETIRED[dataset_id]}, which took its place')
    if dataset_id not in RECIPES:
        raise InputError(_unknown(dataset_id))
    recipe = RECIPES[dataset_id]
    for name, value, low, high in (
        ('transitions', transitions, 1, MAX_TRANSITIONS),
        ('workers', workers, 1, 1024),
        ('seed', seed, 0, MAX_SEED),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f'--{name}={value}: must be at least {low} and at most {high}')
    workers = workers or min(MAX_WORKERS, os.cpu_count() or 1)
    recipe.make(Request(dataset_id, transitions or recipe.transitions, seed, overwrite, workers))


def _unknown(dataset_id: str) -> str:
    similar = difflib.get_close_matches(dataset_id, RECIPES, 1)
    meant = f'did you mean {similar[0]}? ' if similar else ''
    return f'no recipe for {dataset_id[:80]!r}: {meant}`python -m spot_jax.datasets list` names all'


def provide(dataset_id: str) -> None:
    """Makes the dataset of an id if it is a recipe's and is not here; others are left to whoever opens them.

    While another process makes it, it waits. Raises InputError as `generate` does, and if the id is of a recipe that is
    gone and its set is not here.
    """
    check_id(dataset_id)
    place = root() / dataset_id / 'data'
    if dataset_id in RETIRED:
        newer = RETIRED[dataset_id]
        if not place.exists():
            raise InputError(
                f'{dataset_id} is not in {root()} and is made no more: begin anew with {newer}, or, to go on with what '
                'learned from it, put the old set back'
            )
        print(f'{dataset_id} is an older version, kept for what learned from it: begin with {newer}', file=sys.stderr)
    if place.exists():
        return
    if dataset_id not in RECIPES:
        if dataset_id.startswith('spot_jax/'):  # such are nowhere else
            raise InputError(_unknown(dataset_id))
        return
    size = RECIPES[dataset_id].transitions or 'its'
    print(
        f'{dataset_id} is not here yet: generating {size} transitions; to have fewer, stop this and '
        f'`python -m spot_jax.datasets generate {dataset_id} --transitions=N`',
        file=sys.stderr,
    )
    make_once(dataset_id, generate)
