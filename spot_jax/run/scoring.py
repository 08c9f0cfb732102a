"""A run's behaviour density as a plain function: how likely the data's policy is to take an action.

log_prob = spot_jax.load_density('runs/umaze')
scores = log_prob(observations, actions)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import task_of
from spot_jax.core.fields import MAX_SEED, choice, whole
from spot_jax.data.checks import check_bounds, unit_actions
from spot_jax.methods import options
from spot_jax.methods.density import ESTIMATORS
from spot_jax.run.policy import finite, trained, vectors, whole_member
from spot_jax.run.restore import shared_alive
from spot_jax.run.workdir import read_run
from spot_jax.storage.folder import place_of
from spot_jax.system.errors import InputError

LogProb = Callable[[Any, Any], np.ndarray]


def load(
    workdir: str | Path, member: int = 0, estimator: str = 'importance_weighted', num_samples: int = 16, seed: int = 0
) -> LogProb:
    """`(observations [..., O], actions [..., A]) -> log π_β(a|s) [...]` in nats, by an estimator of L = `num_samples`.

    Observations are raw, actions in the environment's bounds; the density is that of actions scaled to [-1, 1]. Equal
    seeds draw equal latent samples. Raises InputError if there is no such run, member, CVAE or estimator.
    """
    raw, state = read_run(place_of(workdir))
    if not choice(ESTIMATORS).fits(estimator):
        raise InputError(f'no estimator {estimator!r}: choose one of {", ".join(ESTIMATORS)}')
    for name, value, takes in (('num_samples', num_samples, whole(1)), ('seed', seed, whole(0, MAX_SEED))):
        if not takes.fits(value):
            raise InputError(f'{name}={value!r}: must be {takes.words}')
    config, scaling, task = ConfigDict(raw), Scaling(**state['scaling']), task_of(raw)
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
    @jax.default_matmul_precision('float32')
    def score(observations: jax.Array, actions: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.key(seed), (len(actions), num_samples, cvae.num_latents))
        return ESTIMATORS[estimator](cvae, density.params, observations, actions, noise, density.beta)

    def log_prob(observations: Any, actions: Any) -> np.ndarray:
        observations = vectors(observations, task, sizes[0])
        axes = observations.shape[:-1]
        found = finite('actions', lambda: actions, sizes[1])
        if found.shape[:-1] != axes:
            raise InputError(f'actions of shape {found.shape}: expected {(*axes, sizes[1])}')
        rows = found.reshape(-1, sizes[1])
        check_bounds('the density', rows, scaling.action_low, scaling.action_high)
        normalized = scaling.normalized(observations.reshape(-1, sizes[0]))
        unit = unit_actions(rows, scaling.action_low, scaling.action_high)
        return np.asarray(score(jnp.asarray(normalized), jnp.asarray(unit, jnp.float32))).reshape(axes)

    return log_prob
