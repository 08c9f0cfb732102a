"""Which options of a run have no effect, as data: it is better to hear of it before the run than after."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from spot_jax.acting.tasks import TASKS
from spot_jax.methods import GRID, METHODS, hyperparameters, path_of


class Idle(NamedTuple):
    """Fields that nothing reads while a condition holds."""

    when: Callable[[Any], bool]  # of the config
    because: str
    fields: tuple[str, ...]  # or groups of fields


def _spans(name: str, each: str) -> Callable[[Any], bool]:
    return lambda c: c.method == name and len(c.grid[each]) > 0


def _of_others(name: str) -> Idle:
    """What only other methods than the one called `name` read."""
    own = {path_of(name, field) for field in METHODS[name].fields}
    all_of_them = [path_of(other, field) for other in METHODS for field in METHODS[other].fields]
    spanned = (f'grid.{each}' for each in GRID if each not in hyperparameters(name))
    fields = (*(path for path in all_of_them if path not in own), *spanned)
    return Idle(lambda c: c.method == name, f'method is {name}', fields)


IDLE = [
    *map(_of_others, METHODS),
    Idle(
        lambda c: c.regularizer.name != 'support',
        'regularizer.name is not support',
        ('cvae', 'grid.beta', 'regularizer.estimator', 'regularizer.num_samples'),
    ),
    Idle(
        lambda c: c.regularizer.name == 'none',
        'regularizer.name is none',
        ('regularizer.weight', 'grid.regularizer_weight', 'online.cooling_steps', 'online.cooling_floor'),
    ),
    Idle(lambda c: TASKS[c.task].is_maze, "task is a maze's", ('flatten_observations',)),
    Idle(lambda c: c.cvae.restore is not None, 'cvae.restore is given', ('cvae.steps', 'cvae.lr')),
    Idle(
        lambda c: c.online.steps > 0 and c.online.restore is not None,
        'online.restore is given',
        (
            *('seeds', 'grid', 'offline', 'cvae.steps', 'cvae.lr', 'cvae.restore'),
            *('actor.output_init', 'critic.output_init'),
        ),
    ),
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
    Idle(
        lambda c: c.policy_noise == 0 and not c.grid.policy_noise,
        'policy_noise is 0',
        ('noise_clip', 'grid.noise_clip'),
    ),
    Idle(
        lambda c: c.noise_clip == 0 and not c.grid.noise_clip,
        'noise_clip is 0',
        ('policy_noise', 'grid.policy_noise'),
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
        found = [path for path in left if any(f'{path}.'.startswith(f'{field}.') for field in idle.fields)]
        left = [path for path in left if path not in found]
        if found:
            told.append(f'{", ".join(found)} ({idle.because})')
    return told
