"""A population's training, compiled once per phase: one donated `lax.scan` with the dataset on the device.

Members form a [C, P] grid: C pairs of (seed, β), each with one CVAE, and P policy settings that share it. The update is
written for one member; it is vmapped over P, with the minibatch, the noise and the CVAE shared, and then over C.
Randomness depends on the seed and the step alone, so a member gets the same numbers whatever population it is in.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax import td3
from spot_jax.density import cvae_loss_fn
from spot_jax.networks import CVAE
from spot_jax.td3 import TD3, Hyperparameters, TD3State
from spot_jax.train_state import TrainState
from spot_jax.types import Array, Metrics, Params, unpack

# Streams of a seed's random numbers.
CVAE_INIT, CVAE_TRAIN, POLICY_INIT, POLICY_TRAIN = range(4)
MAX_Q = 1e4  # a member whose mean |Q| passes this has diverged


class PhaseState(struct.PyTreeNode):
    """What a phase carries: every leaf but `block` leads with the members' axes, [C] for CVAEs or [C, P]."""

    learner: Any  # TrainState (CVAE) or TD3State
    alive: Array  # bool: has not diverged
    gradient_steps: Array  # int32, of each member: a diverged one stops counting
    block: Array  # int32 scalar, the scan's blocks so far: what the randomness depends on


# (state, seeds [C], hypers [C, P], CVAE parameters [C], rows [N, D]) -> (state, metrics); the state is donated.
Phase = Callable[[PhaseState, Array, Hyperparameters, Params, Array], tuple[PhaseState, Metrics]]


class Spec(NamedTuple):
    """Static facts of a run."""

    cvae: CVAE
    td3: TD3
    observation_dim: int
    batch_size: int
    cvae_lr: float


def stream_keys(seeds: Array, stream: int) -> Array:
    """One key per seed, `[C]`, of one of the streams above."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)


def _start(learner: Any, shape: tuple[int, ...]) -> PhaseState:
    return PhaseState(learner, jnp.ones(shape, bool), jnp.zeros(shape, jnp.int32), jnp.int32(0))


@partial(jax.jit, static_argnames='spec')
def init_cvaes(seeds: Array, spec: Spec) -> PhaseState:
    """Fresh CVAEs, one for each of `seeds` [C]."""
    observations, actions = jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.cvae.action_dim))
    latents = jnp.zeros((1, spec.cvae.num_latents))
    create = jax.vmap(lambda key: TrainState.create(spec.cvae.init(key, observations, actions, latents)))
    return _start(create(stream_keys(seeds, CVAE_INIT)), seeds.shape)


@partial(jax.jit, static_argnames=('num_settings', 'spec'))
def init_policies(seeds: Array, num_settings: int, spec: Spec) -> PhaseState:
    """Fresh actors and critics [C, P]: the settings of one seed start from the same weights."""
    states = jax.vmap(lambda key: td3.init(key, spec.td3, spec.observation_dim))(stream_keys(seeds, POLICY_INIT))
    shape = (*seeds.shape, num_settings)
    repeat = lambda x: jnp.broadcast_to(x[:, None], (*shape, *x.shape[1:]))
    return _start(jax.tree.map(repeat, states), shape)


def guarded(update: Callable[[Any], tuple[Any, Metrics]], learner: Any, alive: Array) -> tuple[Any, Array, Metrics]:
    """One member's update, undone from the moment on that its loss is not finite or its mean |Q| passes `MAX_Q`."""
    new, metrics = update(learner)
    for name, value in metrics.items():
        alive &= jnp.isfinite(value)
        if name == 'q_magnitude':
            alive &= value <= MAX_Q
    return jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, learner), alive, metrics


def _cvae_block(
    learner: TrainState, alive: Array, hypers: Hyperparameters, params: Params, key: Array, rows: Array, spec: Spec
) -> tuple[TrainState, Array, Metrics]:
    """One step of one CVAE."""
    del params
    index_key, noise_key = jax.random.split(key)
    indices = jax.random.randint(index_key, (spec.batch_size,), 0, rows.shape[0])
    batch = unpack(rows[indices], spec.observation_dim, spec.cvae.action_dim)
    noise = jax.random.normal(noise_key, (spec.batch_size, spec.cvae.num_latents))

    def update(state: TrainState) -> tuple[TrainState, Metrics]:
        grads, metrics = jax.grad(cvae_loss_fn, has_aux=True)(state.params, spec.cvae, batch, noise, hypers.beta[0])
        return state.apply_gradients(grads, spec.cvae_lr), metrics

    return guarded(update, learner, alive)


def _policy_block(
    learner: TD3State, alive: Array, hypers: Hyperparameters, params: Params, key: Array, rows: Array, spec: Spec
) -> tuple[TD3State, Array, Metrics]:
    """One block of F steps of the P policies of one seed and CVAE: they see the same minibatches and noise."""
    index_key, noise_key = jax.random.split(key)
    indices = jax.random.randint(index_key, (spec.td3.policy_freq, spec.batch_size), 0, rows.shape[0])
    batches = unpack(rows[indices], spec.observation_dim, spec.td3.actor.action_dim)
    noise = td3.draw_noise(noise_key, spec.td3, spec.batch_size)

    def member(learner: TD3State, alive: Array, hypers: Hyperparameters) -> tuple[TD3State, Array, Metrics]:
        update = lambda state: td3.update(state, spec.td3, params, batches, noise, hypers)
        return guarded(update, learner, alive)

    return jax.vmap(member)(learner, alive, hypers)


def _make_phase(block: Callable[..., Any], stream: int, steps_per_block: int, spec: Spec, num_blocks: int) -> Phase:
    """Compiles `(state, seeds [C], hypers [C, P], params [C], rows [N, D]) -> (state, metrics)` of `num_blocks` blocks.

    Metrics are means over the blocks in which a member was alive, shaped as the members are. The state is donated.
    """

    def run(
        state: PhaseState, seeds: Array, hypers: Hyperparameters, params: Params, rows: Array
    ) -> tuple[PhaseState, Metrics]:
        keys = stream_keys(seeds, stream)

        def body(state: PhaseState, _: None) -> tuple[PhaseState, tuple[Metrics, Array]]:
            block_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.block)
            step = jax.vmap(lambda *args: block(*args, rows, spec))
            learner, alive, metrics = step(state.learner, state.alive, hypers, params, block_keys)
            steps = state.gradient_steps + steps_per_block * alive
            return PhaseState(learner, alive, steps, state.block + 1), (metrics, alive)

        state, (metrics, alive) = jax.lax.scan(body, state, length=num_blocks)
        count = jnp.maximum(jnp.sum(alive, axis=0), 1)
        return state, {k: jnp.sum(jnp.where(alive, v, 0), axis=0) / count for k, v in metrics.items()}

    return jax.jit(run, donate_argnums=0)


def cvae_phase(spec: Spec, num_steps: int) -> Phase:
    """The compiled training of all CVAEs by `num_steps` steps; see `_make_phase`."""
    return _make_phase(_cvae_block, CVAE_TRAIN, 1, spec, num_steps)


def policy_phase(spec: Spec, num_steps: int) -> Phase:
    """The compiled training of all policies by `num_steps` steps, a multiple of `policy_freq`; see `_make_phase`."""
    return _make_phase(_policy_block, POLICY_TRAIN, spec.td3.policy_freq, spec, num_steps // spec.td3.policy_freq)
