"""What a run takes over from another: its CVAEs, or its policies to fine-tune online."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from ml_collections import ConfigDict

from spot_jax.config import Population, lookup, members
from spot_jax.errors import InputError
from spot_jax.population import PhaseState
from spot_jax.types import Params
from spot_jax.workdir import read_run

CVAE_FIELDS = ('cvae.hidden_dims', 'cvae.latent_dim', 'normalize_observations')
POLICY_FIELDS = ('actor.hidden_dims', 'critic.hidden_dims', 'normalize_observations')


def _read(option: str, config: ConfigDict, sha256: str, fields: tuple[str, ...]) -> tuple[ConfigDict, dict[str, Any]]:
    """The other run's config and checkpoint; raises InputError if it has other `fields`, or learned from other data."""
    folder = lookup(config, option)
    raw, state = read_run(Path(folder))
    theirs, ours = ConfigDict(raw), ConfigDict(json.loads(config.to_json()))
    for name in fields:
        if lookup(theirs, name) != lookup(ours, name):
            raise InputError(
                f"config.{option}={folder}: its {name} is {lookup(theirs, name)}, this run's {lookup(ours, name)}"
            )
    if state['sha256'] != sha256:
        raise InputError(f'config.{option}={folder} learned from {theirs.dataset_id}, which is other data than this')
    return theirs, state


def restored_cvaes(config: ConfigDict, population: Population, sha256: str) -> Params:
    """The CVAEs [C] of `cvae.restore`, by seed and β; raises InputError if one is not there or does not fit."""
    theirs, state = _read('cvae.restore', config, sha256, CVAE_FIELDS)
    have = members(theirs).cvaes()
    missing = [f'seed {seed}, beta {beta:g}' for seed, beta in population.cvaes() if (seed, beta) not in have]
    if missing or not state['density_params']:
        raise InputError(f'config.cvae.restore={config.cvae.restore} has no CVAE of {"; ".join(missing) or "any seed"}')
    chosen = np.array([have.index(pair) for pair in population.cvaes()])
    alive = cvae_alive(state)[chosen]
    sick = [f'seed {seed}, beta {beta:g}' for (seed, beta), a in zip(population.cvaes(), alive, strict=True) if not a]
    if sick:
        raise InputError(f'config.cvae.restore={config.cvae.restore}: its CVAE of {"; ".join(sick)} has diverged')
    return jax.tree.map(lambda x: jnp.asarray(x[chosen]), state['density_params'])


def cvae_alive(state: dict[str, Any]) -> np.ndarray:
    """Which of a checkpoint's CVAEs [C] have not diverged; older versions did not tell."""
    return state.get('cvae_alive', np.ones(len(state['alive']), bool))


def take_over_population(config: ConfigDict) -> None:
    """Makes `config` the population that it goes on from: seeds and grid are those of `online.restore`."""
    theirs, _ = read_run(Path(config.online.restore))
    config.seeds = tuple(theirs['seeds'])
    for name, values in theirs['grid'].items():
        config.grid[name] = tuple(values)


def restored_policies(
    config: ConfigDict, sha256: str, fresh: PhaseState, uses_density: bool
) -> tuple[PhaseState, Params, np.ndarray]:
    """The networks, optimisers and counters [C, P] of `online.restore`, its CVAEs [C] and which of these are alive.

    All are of this run's members; `fresh` says what the networks look like. Raises InputError if they do not fit, or if
    a member or a needed CVAE is missing.
    """
    fields = POLICY_FIELDS + (CVAE_FIELDS if uses_density else ())
    theirs, state = _read('online.restore', config, sha256, fields)
    have, ours = members(theirs), members(config)
    numbers = [m.number for m in have.members]
    missing = [m.number for m in ours.members if m.number not in numbers]
    if missing:
        raise InputError(f'config.online.restore={config.online.restore} has no members {missing}: it is a part')
    if uses_density and not state['density_params']:
        raise InputError(f'config.online.restore={config.online.restore} has no CVAEs: choose another regularizer.name')
    chosen = np.array([numbers.index(m.number) for m in ours.members])
    take = lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])[chosen].reshape(*ours.shape, *x.shape[2:]))
    taken = {
        name: jax.tree.map(take, serialization.from_state_dict(getattr(fresh, name), state[name]))
        for name in ('learner', 'alive', 'gradient_steps')
    }
    cvaes = np.array([have.cvaes().index(pair) for pair in ours.cvaes()])
    density = jax.tree.map(lambda x: jnp.asarray(x[cvaes]), state['density_params'])
    return fresh.replace(**taken), density, cvae_alive(state)[cvaes]
