"""Every option of a run, in one tree; `experiments/*.py` fill it in, `--config.FIELD=VALUE` overrides it."""

import difflib
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import ml_collections
from ml_collections.config_dict import placeholder

from spot_jax.core.fields import MAX_SIZE
from spot_jax.methods import METHODS, hyperparameters, options, path_of
from spot_jax.population.members import Member, Population
from spot_jax.run.fields import FIELDS, problem, shown
from spot_jax.system.errors import InputError

MAX_MEMBERS = 100_000
GROUPS = {field[:i] for field in FIELDS for i, c in enumerate(field) if c == '.'}


def default_config() -> ml_collections.ConfigDict:
    """The settings that most tasks share (paper, Table 5); a preset changes what its task needs."""
    tree: dict[str, Any] = {}
    for path, field in FIELDS.items():
        *parents, name = path.split('.')
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = placeholder(field.takes.kind) if field.default is None else field.default
    return ml_collections.ConfigDict(tree).lock()


def method_settings(family: str, task: str) -> dict[str, Any]:
    """What the methods' sources set for a family of tasks ('locomotion' or 'maze') and for one of them, by paths."""
    return {
        path_of(name, field): value
        for name, method in METHODS.items()
        for key in (family, task)
        for field, value in method.presets.get(key, {}).items()
    }


def preset_config(
    presets: Mapping[str, Mapping[str, Any]],
    name: str,
    common: Mapping[str, Any],
    method: str = 'spot',
    family: str = 'locomotion',
    task: str = '',
) -> ml_collections.ConfigDict:
    """The default config changed by the methods' settings for a task, by `common` and by the preset called `name`.

    Raises InputError on an unknown name.
    """
    if name not in presets:
        raise InputError(f'no preset {name!r}: choose one of {", ".join(presets)}')
    config = default_config()
    for changes in ({'method': method}, method_settings(family, task), common, presets[name]):
        config.update_from_flattened_dict(dict(changes))
    return config


class Words(NamedTuple):
    """What follows a config file's colon."""

    preset: str
    options: set[str]
    method: str


def read_words(text: str, default: str, options: Collection[str], own: Collection[str] = ()) -> Words:
    """`NAME[,OPTION...]`: a preset's name (`default` if empty), the options given, and of these the method ('spot').

    Raises InputError on an option that is none of `options`, nor a method, or one of `own` with another method.
    """
    name, *given = text.split(',')
    known = [*options, *(method for method in METHODS if method not in options)]
    for option in given:
        require(option in known, f'no option {option!r} of preset {name!r}: choose one of {", ".join(known)}')
    methods = [option for option in dict.fromkeys(given) if option in METHODS]
    require(len(methods) <= 1, f'{name!r} is followed by several methods: {", ".join(methods)}')
    method = methods[0] if methods else 'spot'
    for option in given:
        fits = option not in own or method == 'spot'
        require(fits, f'{name!r}: {option} does not go with {method}: leave out one of them')
    return Words(name or default, set(given) - set(methods), method)


def lookup(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split('.'):
        config = config[name]
    return config


def members(config: ml_collections.ConfigDict) -> Population:
    """The members of `config.part`, seeds outermost, then what the method's stages read, then the rest of the grid.

    Those of one seed and one value of all that the stages read share them.
    """
    method, paths = METHODS[config.method], hyperparameters(config.method)
    names = [*method.shared_by, *(name for name in paths if name not in method.shared_by)]
    values = [[float(v) for v in config.grid[n]] or [float(lookup(config, paths[n]))] for n in names]
    total = len(config.seeds) * math.prod(map(len, values))
    require(total <= MAX_MEMBERS, f'config.seeds and config.grid make {total} members: at most {MAX_MEMBERS}')
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    everyone = [(int(seed), {n: p[n] for n in paths}) for seed in config.seeds for p in points]
    num_groups = len(config.seeds) * math.prod(len(v) for v in values[: len(method.shared_by)])
    found = [Member(*member, number) for number, member in enumerate(everyone)]
    part = config.get('part', (0, 1))  # older runs have none
    return Population(found, (num_groups, len(found) // num_groups), method).part(*part)


def goes_on(config: Any) -> bool:
    """Whether a run fine-tunes what another has learned, `online.restore`: its members are then that one's."""
    return config.online.steps > 0 and config.online.restore is not None


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition`."""
    if not condition:
        raise InputError(message)


def require_part(k: int, n: int) -> None:
    """Raises InputError unless there is a part `k` of `n`."""
    require(k < n, f'config.part=({k}, {n}): of {n} parts, numbered from 0, there is no number {k}')


def is_group(path: str) -> bool:
    """Whether a path is that of several fields."""
    return path in GROUPS


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
        require(path in found, f'config.{path} is missing: make the config by spot_jax.default_config()')


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises InputError at the first field that is missing, unknown or makes no sense, naming it and what it takes."""
    made = isinstance(config, ml_collections.ConfigDict)
    require(made, f'a config is what spot_jax.default_config() makes, not a {type(config).__name__}')
    check_names(config)
    values = flattened(config)
    for path, value in values.items():
        wrong = problem(path, value)
        require(wrong is None, wrong or '')
    for name, path in hyperparameters(config.method).items():
        takes = FIELDS[path].takes
        for value in config.grid[name]:
            require(takes.fits(value), f'config.grid.{name}={shown(value)}: must be {takes.words}, as config.{path}')
    algorithm = METHODS[config.method].make(options(config), 1, 1)
    capacity, freq = config.online.capacity, algorithm.block
    if config.online.steps > 0 and algorithm.explore is None:
        can = [name for name in METHODS if METHODS[name].make(options(config, name), 1, 1).explore is not None]
        raise InputError(
            f'config.online.steps={config.online.steps}: {config.method} does not fine-tune online, as '
            f'{", ".join(can)} do: leave it at 0'
        )
    if METHODS[config.method].returns_discount(options(config)) < 1:
        one = f'the bound of the values is of one discount, {path_of(config.method, "discount")}'
        require(not config.grid.discount, f'config.grid.discount: {one}: set that, in a run for each')
    require(capacity is None or capacity >= freq, f'config.online.capacity={capacity}: must be at least {freq}')
    require_part(*config.part)
    read = [*('offline.steps',) * (not goes_on(config)), *('evaluation.interval',) * (config.evaluation.episodes > 0)]
    for path in (*read, 'online.steps', 'log_interval', 'checkpoint.interval'):
        require(values[path] % freq == 0, f'config.{path}={values[path]}: must be a multiple of policy_freq={freq}')
    if not goes_on(config):  # its seeds and grid are not known yet
        members(config)
    total = config.offline.steps + config.online.steps * config.online.updates_per_step
    require(total <= MAX_SIZE, f'config.offline.steps and config.online.steps make {total} updates: at most {MAX_SIZE}')
