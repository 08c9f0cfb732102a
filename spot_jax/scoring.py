"""A run's behaviour density as a plain function: how likely the data's policy is to take an action.

log_prob = spot_jax.scoring.load('runs/umaze')
scores = log_prob(observations, actions)
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.config import members
from spot_jax.datasets.checks import unit_actions
from spot_jax.density import ESTIMATORS
from spot_jax.errors import InputError
from spot_jax.networks import CVAE
from spot_jax.restore import cvae_alive
from spot_jax.scaling import Scaling
from spot_jax.workdir import read_run

LogProb = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load(
    workdir: str | Path, member: int = 0, estimator: str = 'importance_weighted', num_samples: int = 16, seed: int = 0
) -> LogProb:
    """`(observations [B, O], actions [B, A]) -> log π_β(a|s) [B]` in nats, by an estimator with L = `num_samples`.

    Observations are raw, actions in the environment's bounds; the density is that of actions scaled to [-1, 1]. Equal
    seeds draw equal latent samples. Raises InputError if there is no such run, member, CVAE or estimator.
    """
    raw, state = read_run(Path(workdir))
    if estimator not in ESTIMATORS:
        raise InputError(f'no estimator {estimator!r}: choose one of {", ".join(ESTIMATORS)}')
    if not state['density_params']:
        raise InputError(f'the run in {workdir} has no CVAE: its regulariser is {raw["regularizer"]["name"]}')
    config = ConfigDict(raw)
    population = members(config)
    if not 0 <= member < len(population.members):
        raise InputError(f'no member {member}: the run has members 0 to {len(population.members) - 1}')
    if not cvae_alive(state)[member // population.shape[1]]:
        raise InputError(f'the CVAE of member {member} of the run in {workdir} has diverged')
    beta = jnp.float32(population.members[member].hyperparameters['beta'])
    params = jax.tree.map(lambda x: x[member // population.shape[1]], state['density_params'])
    scaling = Scaling(**state['scaling'])
    cvae = CVAE(len(scaling.action_low), tuple(config.cvae.hidden_dims), config.cvae.latent_dim)

    @jax.jit
    def score(observations: jax.Array, actions: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.key(seed), (len(actions), num_samples, cvae.num_latents))
        return ESTIMATORS[estimator](cvae, params, observations, actions, noise, beta)

    def log_prob(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        normalized = scaling.normalized(np.asarray(observations))
        unit = unit_actions(np.asarray(actions), scaling.action_low, scaling.action_high)
        return np.asarray(score(jnp.asarray(normalized), jnp.asarray(unit, jnp.float32)))

    return log_prob
