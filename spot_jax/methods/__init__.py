"""The methods, one file each. A new one is a file that ends in a `Method`, and a line here."""

from typing import Any

from spot_jax.core.method import Method
from spot_jax.methods import awac, bc, bcq, bear, cql, dt, iql, onestep, percent_bc, plas, rebrac, spot, td3_bc

METHODS: dict[str, Method] = {
    'spot': spot.METHOD,
    'bc': bc.METHOD,
    'percent_bc': percent_bc.METHOD,
    'td3_bc': td3_bc.METHOD,
    'awac': awac.METHOD,
    'onestep': onestep.METHOD,
    'cql': cql.METHOD,
    'iql': iql.METHOD,
    'bcq': bcq.METHOD,
    'bear': bear.METHOD,
    'plas': plas.METHOD,
    'dt': dt.METHOD,
    'rebrac': rebrac.METHOD,
}
# The order of their titles in tables: the poster's, with what it lacks in between; others come first.
IN_TABLES = ['BC', '%BC', 'BCQ', 'BEAR', 'AWAC', 'DT', 'Onestep', 'TD3+BC', 'PLAS', 'PLAS+P', 'CQL', 'Cal-QL', 'IQL']
IN_TABLES += ['ReBRAC', 'SPOT']


def path_of(name: str, field: str) -> str:
    """Where the config has an option of the method called `name`."""
    return field if METHODS[name].at_top else f'{name}.{field}'


def hyperparameters(name: str) -> dict[str, str]:
    """A method's traced hyperparameters: where the config has the value of each, if the grid does not vary it."""
    method = METHODS[name]
    return {each: path_of(name, method.paths.get(each, each)) for each in method.hyperparameters._fields}


def options(config: Any, name: str | None = None) -> Any:
    """A method's own options in a config, by default those of the config's method."""
    name = name or config.method
    return config if METHODS[name].at_top else config[name]


# What a grid may span: the hyperparameters of all methods, each with where those that have it read its value.
GRID: dict[str, tuple[str, ...]] = {}
for _name in METHODS:
    for _each, _path in hyperparameters(_name).items():
        GRID[_each] = (*GRID.get(_each, ()), _path)
