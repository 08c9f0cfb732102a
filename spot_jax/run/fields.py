"""Every option of a run, as data: its default, what it takes, and what it is for. `config` makes the tree of them.

A new option is one row of `FIELDS`: the command line, its `--help` and `config.validate` know it from there.
"""

from typing import Any

from spot_jax.acting.env_pool import TIMEOUT
from spot_jax.acting.specs import MAX_EPISODE_STEPS
from spot_jax.acting.tasks import TASKS
from spot_jax.core.fields import (
    FOLDER,
    LARGE,
    MAX_SEED,
    SHARE,
    SMALL,
    SOME_STEPS,
    STEPS,
    WORKERS,
    Field,
    choice,
    either,
    flag,
    matching,
    optional,
    real,
    several,
    text,
    whole,
)
from spot_jax.methods import GRID, METHODS, hyperparameters, path_of

PROJECT = matching(
    r"[^/\\#?%:'\s][^/\\#?%:']{0,127}", "a project's name of at most 128 characters, none of them one of /\\#?%:'"
)
PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')

# Every method's options by their paths: SPOT's are at the top of the tree, the others' under their names.
OF_METHODS = {path_of(name, field): takes for name, method in METHODS.items() for field, takes in method.fields.items()}

FIELDS: dict[str, Field] = {
    'dataset_id': Field(None, text('the id of a Minari dataset'), 'the dataset, as Minari calls it'),
    'task': Field('locomotion', choice(TASKS), 'rule for observations, rewards and terminals'),
    'flatten_observations': Field(
        False, flag(), 'make vectors of dicts (in the alphabetical order of their keys), tuples and arrays'
    ),
    'clip_actions': Field(False, flag(), "clip the dataset's actions to their bounds; else one outside is an error"),
    'episodes.min_return': Field(
        None, optional(real(-LARGE)), 'learn only from episodes whose rewards sum to at least this'
    ),
    'episodes.best_percent': Field(
        None, optional(real(SMALL, 100)), 'learn only from so many percent of the episodes, those of highest return'
    ),
    'seeds': Field((0,), several(whole(0, MAX_SEED), 1, distinct=True), "the population's; times the grid"),
    'part': Field((0, 1), several(whole(), 2, 2), 'k,n: train only the k-th of n parts of the members'),
    'method': Field('spot', choice(METHODS), 'what is trained: see the options of each'),
    'log_interval': Field(1000, SOME_STEPS, 'gradient steps between two rows of metrics, and between two host syncs'),
    'precision': Field('float32', choice(PRECISIONS), 'of matrix products, where the device can'),
    **OF_METHODS,
    'offline.steps': Field(1_000_000, SOME_STEPS, 'gradient steps'),
    'online.steps': Field(0, STEPS, 'environment steps of each member after the offline phase; 0: none'),
    'online.restore': Field(None, FOLDER, "a run's folder: go on from its policies, CVAEs and optimisers"),
    'online.keep_offline': Field(True, flag(), 'the dataset stays in the replay buffer'),
    'online.offline_share': Field(None, optional(SHARE), 'of a minibatch, from the dataset; None: uniform over both'),
    'online.capacity': Field(None, optional(SOME_STEPS), 'new transitions kept of each member; None: all of them'),
    'online.reset_optimizers': Field(False, flag(), "start with fresh optimisers, not with the offline phase's"),
    'online.discount': Field(None, optional(SHARE), 'None: as offline'),
    'online.exploration_noise': Field(0.1, real(), 'standard deviation, of actions in [-1, 1]'),
    'online.cooling_steps': Field(1_000_000, STEPS, 'λ falls linearly, to 0 after so many steps (0: it does not) ...'),
    'online.cooling_floor': Field(0.2, SHARE, '... but not below this multiple of itself'),
    'online.updates_per_step': Field(1, whole(1, 1000), 'updates for each environment step'),
    'online.warmup_steps': Field(0, STEPS, 'environment steps before the first update'),
    'online.workers': Field(0, WORKERS, 'processes that step the environments; 0: the main one does'),
    'evaluation.interval': Field(5000, STEPS, 'steps between two evaluations; 0: only at the end'),
    'evaluation.episodes': Field(10, whole(0, 1_000_000), 'of each member in an evaluation; 0: none are made'),
    'evaluation.seed': Field(10_000, whole(0, MAX_SEED), 'of the first episode; the others count on'),
    'evaluation.workers': Field(
        1, WORKERS, 'processes that step its environments while training goes on; 0: training waits'
    ),
    'evaluation.trust_environment': Field(
        False, flag(), 'make the environment as the dataset records it, whatever code that names'
    ),
    'evaluation.max_episode_steps': Field(
        MAX_EPISODE_STEPS,
        SOME_STEPS,
        'after which episodes are cut, also online, where the environment has no time limit',
    ),
    'evaluation.timeout': Field(
        TIMEOUT, real(0, 1e6), 'seconds that an environment may take for one answer, also online; 0: no bound'
    ),
    'checkpoint.interval': Field(50_000, STEPS, 'steps between two checkpoints; 0: only at the end'),
    'checkpoint.keep': Field(2, whole(1), 'the newest ones that are kept'),
    'wandb.project': Field(None, optional(PROJECT), "of Weights & Biases, which each member's metrics go to as a run"),
}
for _name, _paths in GRID.items():
    _takes = either(*(FIELDS[path].takes for path in _paths))  # which of them a method's is, `config.validate` knows
    _own = f"{_paths[0]}'s" if len(_paths) == 1 else "the method's own"
    FIELDS[f'grid.{_name}'] = Field((), several(_takes, distinct=True), f'values to span; empty: {_own}')
# Where a grid spans what stands at a path.
SPANNED_BY = {path: f'config.grid.{name}' for method in METHODS for name, path in hyperparameters(method).items()}


def shown(value: Any) -> str:
    """A value on one line, not too long."""
    try:
        line = repr(value) if isinstance(value, str) else ' '.join(repr(value).split())
    except Exception:  # Python refuses to print very long integers, and a user's own object can raise anything
        return f'a {type(value).__name__} that cannot be printed'
    return line if len(line) <= 80 else f'{line[:77]}...'


def problem(path: str, value: Any) -> str | None:
    """What is wrong with a field's value, on one line; None if nothing is."""
    takes = FIELDS[path].takes
    if takes.fits(value):
        return None
    several_given = isinstance(value, tuple | list) or (isinstance(value, str) and ',' in value)
    hint = f'; for several, {SPANNED_BY[path]}' if several_given and path in SPANNED_BY else ''
    return f'config.{path}={shown(value)}: must be {takes.words}{hint}'
