"""Every option of a run, in one tree; `experiments/*.py` fill it in, `--config.FIELD=VALUE` overrides it."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
from ml_collections.config_dict import placeholder

from spot_jax.errors import InputError
from spot_jax.regularizers import PENALTIES, REGULARIZERS
from spot_jax.tasks import TASKS
from spot_jax.td3 import Hyperparameters

# Where each traced hyperparameter's value comes from when the grid does not vary it.
HYPERPARAMETERS = {
    'regularizer_weight': 'regularizer.weight',
    'actor_lr': 'actor.lr',
    'critic_lr': 'critic.lr',
    'discount': 'discount',
    'beta': 'cvae.beta',
    'tau': 'tau',
    'policy_noise': 'policy_noise',
    'noise_clip': 'noise_clip',
}

PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')


class Member(NamedTuple):
    """One member of a population."""

    seed: int
    hyperparameters: dict[str, float]
    number: int = 0  # in the whole population


def default_config() -> ml_collections.ConfigDict:
    """The settings that most tasks share (SPEC: paper, Table 5); a preset changes what its task needs."""
    config = ml_collections.ConfigDict(
        {
            'dataset_id': placeholder(str),
            'task': 'locomotion',  # rule for observations, rewards and terminals: see tasks.py
            'seeds': (0,),
            'part': (0, 1),  # (k, n): train only the k-th of n parts of the members, the others elsewhere
            'grid': dict.fromkeys(HYPERPARAMETERS, ()),  # values to span; empty: the field's own value
            'batch_size': 256,
            'log_interval': 1000,  # gradient steps between two rows of metrics, and between two host syncs
            'precision': 'float32',  # of matrix products, where the device can: float32 | tensorfloat32 | bfloat16
            'normalize_observations': False,  # (s − mean) / (std + 1e-3)
            'discount': 0.99,
            'tau': 0.005,
            'policy_noise': 0.2,
            'noise_clip': 0.5,
            'policy_freq': 2,  # critic updates per actor and target update
            'normalize_q': True,  # divide the actor's Q by its mean magnitude
            'actor': {
                'hidden_dims': (256, 256),
                'lr': 3e-4,
                'dropout': 0.0,
                'output_init': placeholder(float),  # bound of the output layer's initial values
            },
            'critic': {'hidden_dims': (256, 256), 'lr': 3e-4, 'output_init': placeholder(float)},
            'cvae': {
                'hidden_dims': (750, 750),
                'latent_dim': placeholder(int),  # twice the action dimension unless given
                'lr': 1e-3,
                'beta': 0.5,
                'steps': 100_000,
                'restore': placeholder(str),  # a run's folder: take its CVAEs, of the same seeds and β, train none
            },
            'regularizer': {
                'name': 'support',  # none (TD3) | bc (TD3+BC) | support (SPOT)
                'estimator': 'elbo',  # elbo (loss form) | importance_weighted (nats)
                'num_samples': 1,  # L
                'weight': 0.1,  # λ
            },
            'offline': {'steps': 1_000_000},
            'online': {
                'steps': 0,  # environment steps of each member after the offline phase; 0: none
                'restore': placeholder(str),  # a run's folder: go on from its policies, CVAEs and optimisers
                'keep_offline': True,  # the dataset stays in the replay buffer
                'offline_share': placeholder(float),  # of a minibatch, from the dataset; None: uniform over both
                'capacity': placeholder(int),  # new transitions kept of each member; None: all of them
                'reset_optimizers': False,
                'discount': placeholder(float),  # None: as offline
                'exploration_noise': 0.1,  # standard deviation, of actions in [-1, 1]
                'cooling_steps': 1_000_000,  # λ falls linearly over so many steps (0: stays as it is) ...
                'cooling_floor': 0.2,  # ... to this multiple of itself
                'updates_per_step': 1,
                'warmup_steps': 0,  # environment steps before the first update
                'workers': 0,  # processes that step the environments; 0: the main one does
            },
            'evaluation': {
                'interval': 5000,
                'episodes': 10,
                'seed': 10_000,
                'workers': 1,  # processes that step its environments while training goes on; 0: training waits
            },
            'checkpoint': {'interval': 50_000, 'keep': 2},
        }
    )
    return config.lock()


def preset_config(
    presets: Mapping[str, Mapping[str, Any]], name: str, common: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """The default config changed by `common` and by the preset called `name`; raises InputError on an unknown name."""
    if name not in presets:
        raise InputError(f'no preset {name!r}: choose one of {", ".join(presets)}')
    config = default_config()
    config.update_from_flattened_dict(dict(common))
    config.update_from_flattened_dict(dict(presets[name]))
    return config


def preset_and_options(text: str, default: str, options: Collection[str]) -> tuple[str, set[str]]:
    """`NAME[,OPTION...]` as a preset's name (`default` if empty) and the options given.

    Raises InputError on an option that is none of `options`.
    """
    name, *given = text.split(',')
    for option in given:
        require(option in options, f'no option {option!r} of preset {name!r}: choose one of {", ".join(options)}')
    return name or default, set(given)


def lookup(config: ml_collections.ConfigDict, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split('.'):
        config = config[name]
    return config


class Population(NamedTuple):
    """All members of a run and how they are laid out: [C, P], C CVAEs each shared by P policies."""

    members: list[Member]
    shape: tuple[int, int]

    def per_member(self, values: Any) -> np.ndarray:
        """One value per member, `[C * P]`, from those of the CVAEs [C] or of the policies [C, P]."""
        return np.broadcast_to(np.asarray(values).reshape(self.shape[0], -1), self.shape).ravel()

    def part(self, index: int, count: int) -> 'Population':
        """The members that the `index`-th of `count` hosts trains; few hosts share out CVAEs, many their settings too.

        Raises InputError if there are none.
        """
        c, p = self.shape
        grid = np.arange(c * p).reshape(c, p)
        chosen = grid[index::count] if count <= c else grid[[index % c], index // c :: len(range(index % c, count, c))]
        if not 0 <= index < count or chosen.size == 0:
            raise InputError(f'config.part=({index}, {count}): there are {c * p} members to share out')
        return Population([self.members[i] for i in chosen.ravel()], chosen.shape)

    def cvaes(self) -> list[tuple[int, float]]:
        """The seed and β of each CVAE, `[C]`."""
        return [(m.seed, m.hyperparameters['beta']) for m in self.members[:: self.shape[1]]]

    def hyperparameters(self) -> Hyperparameters:
        """The traced hyperparameters, arrays [C, P]."""
        values = ([m.hyperparameters[name] for m in self.members] for name in Hyperparameters._fields)
        return Hyperparameters(*(jnp.array(v, jnp.float32).reshape(self.shape) for v in values))


def members(config: ml_collections.ConfigDict) -> Population:
    """The members of `config.part`, seeds outermost, then β, then the rest of the grid.

    Those of one (seed, β) share a CVAE.
    """
    names = ['beta', *(name for name in HYPERPARAMETERS if name != 'beta')]
    values = [[float(v) for v in config.grid[n]] or [float(lookup(config, HYPERPARAMETERS[n]))] for n in names]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    everyone = [(int(seed), {n: p[n] for n in Hyperparameters._fields}) for seed in config.seeds for p in points]
    num_cvaes = len(config.seeds) * len(values[0])
    found = [Member(*member, number) for number, member in enumerate(everyone)]
    part = config.get('part', (0, 1))  # older runs have none
    return Population(found, (num_cvaes, len(found) // num_cvaes)).part(*part)


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition`."""
    if not condition:
        raise InputError(message)


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises InputError at the first value that makes no sense, naming the field and what it takes."""
    choices: dict[str, Mapping[str, Any]] = {
        'regularizer.name': REGULARIZERS,
        'regularizer.estimator': PENALTIES,
        'task': TASKS,
        'precision': dict.fromkeys(PRECISIONS),
    }
    for path, names in choices.items():
        value = lookup(config, path)
        require(value in names, f'config.{path}={value!r}: choose one of {", ".join(names)}')
    require(bool(config.dataset_id), 'config.dataset_id is empty: name a Minari dataset')
    at_least = {
        1: [
            'cvae.steps',
            'batch_size',
            'log_interval',
            'policy_freq',
            'regularizer.num_samples',
            'offline.steps',
            'checkpoint.keep',
            'online.updates_per_step',
        ],
        0: [
            'evaluation.interval',
            'evaluation.episodes',
            'evaluation.workers',
            'checkpoint.interval',
            'regularizer.weight',
            'online.steps',
            'online.cooling_steps',
            'online.warmup_steps',
            'online.workers',
        ],
    }
    for bound, paths in at_least.items():
        for path in paths:
            require(lookup(config, path) >= bound, f'config.{path}={lookup(config, path)}: must be at least {bound}')
    share = config.online.offline_share
    require(share is None or 0 <= share <= 1, f'config.online.offline_share={share}: must be in [0, 1]')
    capacity, freq = config.online.capacity, config.policy_freq
    require(capacity is None or capacity >= freq, f'config.online.capacity={capacity}: must be at least {freq}')
    require(0 <= config.actor.dropout < 1, f'config.actor.dropout={config.actor.dropout}: must be in [0, 1)')
    require(len(config.part) == 2, f'config.part={config.part}: give K,N')
    require(len(config.seeds) > 0, 'config.seeds is empty: give at least one, e.g. --config.seeds=0,1,2')
    for name, kinds, values in (
        *(('seeds', (int,), config.seeds), ('part', (int,), config.part)),
        *((f'grid.{name}', (int, float), values) for name, values in config.grid.items()),
    ):
        fits = all(isinstance(v, kinds) and not isinstance(v, bool) and v >= 0 for v in values)
        require(fits, f'config.{name}={values}: give numbers of at least 0{", whole ones" * (kinds == (int,))}')
    for name, values in (('seeds', config.seeds), *config.grid.items()):
        require(len(set(values)) == len(values), f'config.{name}={values}: a value appears twice')
    for path in ('offline.steps', 'online.steps', 'log_interval', 'evaluation.interval', 'checkpoint.interval'):
        multiple = lookup(config, path) % config.policy_freq == 0
        require(
            multiple, f'config.{path}={lookup(config, path)}: must be a multiple of policy_freq={config.policy_freq}'
        )
