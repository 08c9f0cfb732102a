"""Methods without the rest of the package: options, packed minibatches, and training as short as it can be."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from methods_golden import GOLDEN

from spot_jax.core.method import Data
from spot_jax.core.types import unpack
from spot_jax.methods import hyperparameters as paths_of
from spot_jax.methods import spot
from spot_jax.run.config import default_config, lookup


def options(method, **changes):
    """A method's options: its defaults, and changes."""
    assert set(changes) <= set(method.fields)
    return SimpleNamespace(**{name: field.default for name, field in method.fields.items()} | changes)


def hyperparameters(method, **changes):
    """A method's traced hyperparameters: its defaults, and changes, numbers or arrays."""
    chosen = vars(options(method, **changes))
    return method.hyperparameters(*(jnp.asarray(chosen[n], jnp.float32) for n in method.hyperparameters._fields))


def of_spot(shape=(), **changes):
    """SPOT's traced hyperparameters, of one member or of all members of a shape: its defaults, and changes."""
    values = {name: lookup(default_config(), path) for name, path in paths_of('spot').items()} | changes
    return spot.Hyperparameters(**{name: jnp.full(shape, value, jnp.float32) for name, value in values.items()})


def pack(observations, actions, rewards, masks, next_observations):
    """Rows `[..., 2 * O + A + 2]` as `types.unpack` takes them."""
    parts = (observations, actions, rewards[..., None], masks[..., None], next_observations)
    return jnp.asarray(np.concatenate(parts, axis=-1), jnp.float32)


def recorded_rows(prefix):
    """A recorded minibatch, packed [32, D]."""
    of = lambda name: GOLDEN[f'{prefix}/batch/{name}']
    return pack(of('observations'), of('actions'), of('rewards'), 1 - of('dones'), of('next_observations'))


def one_step_episodes(rows):
    """A dataset each of whose rows is an episode."""
    index = jnp.arange(len(rows), dtype=jnp.int32)
    return Data(rows, index, index, jnp.zeros(len(rows)))


def several_settings(hypers):
    """The axes of a vmap over settings, for those hyperparameters that are arrays."""
    return type(hypers)(*(0 if value.ndim else None for value in hypers))


def recorded_batch(prefix):
    """A recorded minibatch of observations of 5 and actions of 3 numbers."""
    return unpack(recorded_rows(prefix), 5, 3)


def train(algorithm, hypers, data, blocks, seed=0, shared=()):
    """The learner of an algorithm or a stage after so many blocks; one for each setting if hyperparameters are [P]."""
    init_key, *keys = jax.random.split(jax.random.key(seed), blocks + 1)

    @jax.jit
    def run(hypers, keys):
        def one(learner, key):
            learner, _ = algorithm.update(learner, shared, algorithm.draw(key, data), hypers, jnp.int32(0))
            return learner, None

        return jax.lax.scan(one, algorithm.init(init_key), keys)[0]

    if any(value.ndim for value in hypers):
        run = jax.vmap(run, (several_settings(hypers), None))
    return run(hypers, jnp.stack(keys))
