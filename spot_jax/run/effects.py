"""Which options of a run have no effect, as data: it is better to hear of it before the run than after."""

from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from spot_jax.acting.tasks import TASKS
from spot_jax.core.method import Idle
from spot_jax.methods import GRID, METHODS, hyperparameters, options, path_of
from spot_jax.run.config import goes_on
from spot_jax.run.fields import FIELDS
from spot_jax.system.errors import InputError

COOLING = ('online.cooling_steps', 'online.cooling_floor')


def _spans(name: str, each: str) -> Callable[[Any], bool]:
    return lambda c: c.method == name and len(c.grid[each]) > 0


def _of_others(name: str) -> Idle:
    """What only other methods than the one called `name` read."""
    own = {path_of(name, field) for field in METHODS[name].fields}
    all_of_them = [path_of(other, field) for other in METHODS for field in METHODS[other].fields]
    spanned = (f'grid.{each}' for each in GRID if each not in hyperparameters(name))
    fields = (*(path for path in all_of_them if path not in own), *spanned)
    fields += COOLING * (not METHODS[name].cooled) + ('online.exploration_noise',) * METHODS[name].samples
    return Idle(lambda c: c.method == name, f'method is {name}', fields)


def covers(fields: Collection[str], path: str) -> bool:
    """Whether a path is one of the fields, or in one of these groups of fields."""
    return any(f'{path}.'.startswith(f'{field}.') for field in fields)


def _of_method(name: str) -> list[Idle]:
    """What a method says of its own options, by their paths, with what follows for the grid and for cooling."""
    paths, found = hyperparameters(name), []
    for idle in METHODS[name].idle:
        fields = tuple(path_of(name, field) for field in idle.fields)
        given = [each for each, path in paths.items() if covers(fields, path)]
        fields += tuple(f'grid.{each}' for each in given)
        if set(METHODS[name].cooled) <= set(given):
            fields += COOLING
        when = lambda c, when=idle.when: c.method == name and when(options(c))
        found.append(Idle(when, idle.because, fields))
    fresh = tuple(path_of(name, field) for field in METHODS[name].fresh_fields)
    return [*found, Idle(lambda c: c.method == name and goes_on(c), 'online.restore is given', fresh)]


IDLE = [
    *map(_of_others, METHODS),
    *(idle for name in METHODS for idle in _of_method(name)),
    Idle(lambda c: TASKS[c.task].is_maze, "task is a maze's", ('flatten_observations',)),
    Idle(goes_on, 'online.restore is given', ('seeds', 'grid', 'offline')),
    Idle(
        lambda c: c.online.steps == 0,
        'online.steps is 0',
        tuple(
            f'online.{name}'
            for name in (
                *('restore', 'keep_offline', 'offline_share', 'capacity', 'reset_optimizers', 'discount', 'workers'),
                *('exploration_noise', 'cooling_steps', 'cooling_floor', 'updates_per_step', 'warmup_steps'),
            )
        ),
    ),
    Idle(
        lambda c: c.online.steps > 0,
        'online.steps is given',
        tuple(path_of(name, 'schedule_steps') for name in METHODS if 'schedule_steps' in METHODS[name].fields),
    ),
    Idle(lambda c: not c.online.keep_offline, 'online.keep_offline is false', ('online.offline_share',)),
    Idle(lambda c: c.online.cooling_steps == 0, 'online.cooling_steps is 0', ('online.cooling_floor',)),
    Idle(
        lambda c: c.evaluation.episodes == 0,
        'evaluation.episodes is 0',
        ('evaluation.interval', 'evaluation.seed', 'evaluation.workers'),
    ),
    Idle(
        lambda c: c.evaluation.episodes == 0 and c.online.steps == 0,
        'no environment is needed',
        ('evaluation.trust_environment', 'evaluation.max_episode_steps', 'evaluation.timeout'),
    ),
    *(
        Idle(_spans(name, each), f'grid.{each} is given', (path,))
        for name in METHODS
        for each, path in hyperparameters(name).items()
    ),
]


def without_effect(config: ConfigDict, changed: Collection[str]) -> list[str]:
    """Those of the fields `changed` that this run does not read, as 'FIELD, ... (the reason)'."""
    told: list[str] = []
    left = list(changed)
    for idle in filter(lambda idle: idle.when(config), IDLE):
        found = [path for path in left if covers(idle.fields, path)]
        left = [path for path in left if path not in found]
        if found:
            told.append(f'{", ".join(found)} ({idle.because})')
    return told


def require_that_grids_are_read(config: ConfigDict) -> None:
    """Raises InputError if a grid makes members that differ in nothing that the run reads."""
    for name in hyperparameters(config.method):
        told = without_effect(config, [f'grid.{name}'])
        if told and len(config.grid[name]) > 1 and not goes_on(config):
            raise InputError(f'its members would not differ: nothing reads {told[0]}: leave it out')


def read_paths(config: ConfigDict) -> list[str]:
    """The dotted paths of all fields that a run of this config reads."""
    idle = [each for each in IDLE if each.when(config)]
    return [path for path in FIELDS if not any(covers(each.fields, path) for each in idle)]
