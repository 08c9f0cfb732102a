"""A run's behaviour density as a plain function: how likely the data's policy is to take an action.

log_prob = spot_jax.load_density('runs/umaze')
scores = log_prob(observations, actions)
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting.scaling import Scaling
from spot_jax.data.checks import unit_actions
from spot_jax.methods import options
from spot_jax.methods.density import ESTIMATORS
from spot_jax.run.policy import trained, whole_member
from spot_jax.run.restore import shared_alive
from spot_jax.run.workdir import read_run
from spot_jax.system.errors import InputError

LogProb = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load(
    workdir: str | Path, member: int = 0, estimator: str = 'importance_weighted', num_samples: int = 16, seed: int = 0
) -> LogProb:
    """`(observations [..., O], actions [..., A]) -> log π_β(a|s) [...]` in nats, by an estimator of L = `num_samples`.

    Observations are raw, actions in the environment's bounds; the density is that of actions scaled to [-1, 1]. Equal
    seeds draw equal latent samples. Raises InputError if there is no such run, member, CVAE or estimator.
    """
    raw, state = read_run(Path(workdir))
    if estimator not in ESTIMATORS:
        raise InputError(f'no estimator {estimator!r}: choose one of {", ".join(ESTIMATORS)}')
    config, scaling = ConfigDict(raw), Scaling(**state['scaling'])
    sizes = (len(scaling.mean), len(scaling.action_low))
    everyone, _, learners = trained(config, state)
    member = whole_member(member, len(everyone.members))
    group, setting = divmod(member, everyone.shape[1])
    if not shared_alive(state)[group]:
        raise InputError(f'the CVAE of member {member} of the run in {workdir} has diverged')
    shared = jax.tree.map(lambda x: x[group], state['density_params'])
    learner, hypers = jax.tree.map(lambda x: x[group, setting], (learners, everyone.hyperparameters()))
    density_of = everyone.method.density
    density = density_of and density_of(options(config), *sizes, learner, shared, hypers)
    if density is None:
        raise InputError(f'the run in {workdir} has no CVAE: its method trains none')
    cvae = density.cvae

    @jax.jit
    def score(observations: jax.Array, actions: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.key(seed), (len(actions), num_samples, cvae.num_latents))
        return ESTIMATORS[estimator](cvae, density.params, observations, actions, noise, density.beta)

    def log_prob(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        observations, actions = (np.asarray(x, np.float32) for x in (observations, actions))
        axes = observations.shape[:-1]
        if (observations.shape, actions.shape) != tuple((*axes, size) for size in sizes):
            raise InputError(
                f'observations and actions of shapes {observations.shape} and {actions.shape}: the density takes '
                f'[..., {sizes[0]}] and [..., {sizes[1]}]'
            )
        normalized = scaling.normalized(observations.reshape(-1, sizes[0]))
        unit = unit_actions(actions.reshape(-1, sizes[1]), scaling.action_low, scaling.action_high)
        return np.asarray(score(jnp.asarray(normalized), jnp.asarray(unit, jnp.float32))).reshape(axes)

    return log_prob
