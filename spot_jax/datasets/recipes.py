"""The datasets that are made on the spot: id to recipe."""

import os

from spot_jax.arguments import MAX_SEED
from spot_jax.datasets import antmaze, locomotion, pointmaze
from spot_jax.datasets.store import Recipe, Request
from spot_jax.errors import InputError
from spot_jax.workers import refuse_a_rerun

RECIPES: dict[str, Recipe] = pointmaze.RECIPES | antmaze.RECIPES | locomotion.RECIPES
MAX_TRANSITIONS = 10**8
MAX_WORKERS = 8  # unless more are asked for


def generate(
    dataset_id: str, transitions: int | None = None, seed: int = 0, overwrite: bool = False, workers: int | None = None
) -> None:
    """Makes a recipe's dataset; the same seed gives the same data, whatever the number of workers (None: one per CPU).

    It appears whole or not at all. Raises InputError if the id is no recipe's, or is taken and not to be overwritten.
    """
    refuse_a_rerun()
    if dataset_id not in RECIPES:
        raise InputError(f'no recipe for {dataset_id!r}: choose one of {", ".join(RECIPES)}')
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
