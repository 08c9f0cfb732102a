"""Every option of a run, in one tree; `experiments/*.py` fill it in, `--config.FIELD=VALUE` overrides it."""

import difflib
import itertools
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
from ml_collections.config_dict import placeholder

from spot_jax.core.fields import MAX_SIZE
from spot_jax.errors import InputError
from spot_jax.fields import FIELDS, HYPERPARAMETERS, problem
from spot_jax.td3 import Hyperparameters


class Member(NamedTuple):
    """One member of a population."""

    seed: int
    hyperparameters: dict[str, float]
    number: int = 0  # in the whole population


def default_config() -> ml_collections.ConfigDict:
    """The settings that most tasks share (SPEC: paper, Table 5); a preset changes what its task needs."""
    tree: dict[str, Any] = {}
    for path, field in FIELDS.items():
        *parents, name = path.split('.')
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = placeholder(field.takes.kind) if field.default is None else field.default
    return ml_collections.ConfigDict(tree).lock()


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


def lookup(config: Mapping[str, Any], path: str) -> Any:
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


def is_group(path: str) -> bool:
    """Whether a path is that of several fields."""
    return any(field.startswith(f'{path}.') for field in FIELDS)


def similar(path: str) -> str:
    """The field that was perhaps meant, as a question; empty if there is none."""
    found = difflib.get_close_matches(path, FIELDS, 1) or [p for p in FIELDS if p.rpartition('.')[2] == path][:1]
    return f'. Did you mean "{found[0]}"?' if found else ''


def paths(config: Mapping[str, Any], prefix: str = '') -> list[str]:
    """Dotted paths of a tree's leaves; what is no group of ours is a leaf, whatever it holds."""
    found: list[str] = []
    for name in config:
        path = f'{prefix}{name}'
        require(isinstance(name, str), f'config.{path}: names must be strings')
        if is_group(path) and isinstance(config[name], Mapping | ml_collections.ConfigDict):
            found += paths(config[name], f'{path}.')
        else:
            found.append(path)
    return found


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths of a tree's leaves to their values."""
    return {path: lookup(config, path) for path in paths(config)}


def check_names(config: Mapping[str, Any]) -> None:
    """Raises InputError at the first field that is missing or unknown."""
    found = paths(config)
    for path in found:
        require(not is_group(path), f'config.{path}: must be a group of fields')
        if path not in FIELDS:
            raise InputError(f'config.{path}: there is no such field{similar(path)}')
    for path in FIELDS:
        require(path in found, f'config.{path} is missing: make the config by spot_jax.config.default_config()')


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises InputError at the first field that is missing, unknown or makes no sense, naming it and what it takes."""
    check_names(config)
    values = flattened(config)
    for path, value in values.items():
        wrong = problem(path, value)
        require(wrong is None, wrong or '')
    capacity, freq = config.online.capacity, config.policy_freq
    require(capacity is None or capacity >= freq, f'config.online.capacity={capacity}: must be at least {freq}')
    k, n = config.part
    require(k < n, f'config.part=({k}, {n}): parts are numbered from 0 to {n - 1}')
    for path in ('offline.steps', 'online.steps', 'log_interval', 'evaluation.interval', 'checkpoint.interval'):
        require(values[path] % freq == 0, f'config.{path}={values[path]}: must be a multiple of policy_freq={freq}')
    total = config.offline.steps + config.online.steps * config.online.updates_per_step
    require(total <= MAX_SIZE, f'config.offline.steps and config.online.steps make {total} updates: at most {MAX_SIZE}')
