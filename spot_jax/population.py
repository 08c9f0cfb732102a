"""A population's training, compiled once per phase: one donated `lax.scan` with the dataset on the device.

Members form a [C, P] grid: C pairs of (seed, β), each with one CVAE, and P policy settings that share it. The update is
written for one member; it is vmapped over P, with the minibatch, the noise and the CVAE shared, and then over C.
Randomness depends on the seed and the step alone, so a member gets the same numbers whatever population it is in.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from spot_jax import td3
from spot_jax.core.sampling import uniform_indices
from spot_jax.density import cvae_loss_fn
from spot_jax.networks import CVAE
from spot_jax.sharding import compile_over, in_turns
from spot_jax.td3 import TD3, Hyperparameters, Noise, TD3State
from spot_jax.train_state import TrainState, correction_after, corrections, with_corrections
from spot_jax.types import Array, Metrics, Params, Transition, unpack

# Streams of a seed's random numbers.
CVAE_INIT, CVAE_TRAIN, POLICY_INIT, POLICY_TRAIN = range(4)
MAX_GROUP = 128  # blocks that draw at once
MAX_Q = 1e4  # a member whose mean |Q| passes this has diverged
# Members that train at a time, where not all do: on a CPU those whose parameters and moments stay in its cache.
AT_ONCE = {'cpu': 2}
# A GPU's small products would be split in parts, added up by kernels of their own; a CPU's would go to YNNPACK, which
# is slower here than Eigen (experiments/results/throughput).
XLA_OPTIONS: dict[str, dict[str, Any]] = {
    'gpu': {'xla_gpu_experimental_force_split_k': 1},
    'cpu': {'xla_cpu_experimental_ynn_fusion_type': ''},
}


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
    precision: str = 'float32'  # of the matrix products, where the device has others


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


def guard(alive: Array, metrics: Metrics, new: Any, old: Any) -> tuple[Array, Any]:
    """Which members go on, and everyone's state: `new`, or `old` once a mean is not finite or mean |Q| passes `MAX_Q`.

    Metrics are shaped as `alive`; every leaf of the states leads with its axes.
    """
    for value in metrics.values():
        alive &= jnp.isfinite(value)
    if 'q_magnitude' in metrics:
        alive &= metrics['q_magnitude'] <= MAX_Q
    select = lambda n, o: jnp.where(alive.reshape(alive.shape + (1,) * (n.ndim - alive.ndim)), n, o)
    return alive, jax.tree.map(select, new, old)


class Block(NamedTuple):
    """A phase's unit of work: what it draws, apart from what it computes, so that many blocks draw at once."""

    draw: Callable[[Array, Array, Spec], Any]  # (key, rows [N, D], spec) -> minibatches and noise
    update: Callable[..., tuple[Any, Metrics]]  # (learner, hypers, CVAE parameters, what was drawn, spec) -> as td3's
    stream: int  # of the seeds' random numbers
    steps: tuple[int, ...]  # in a block, of each optimiser in the order of the learner's fields


def draw_cvae(key: Array, rows: Array, spec: Spec) -> tuple[Transition, Array]:
    """A minibatch [B, ...] and the noise [B, Z] of one step of a CVAE; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    indices = uniform_indices(index_key, (spec.batch_size,), len(rows))
    batch = unpack(rows[indices], spec.observation_dim, spec.cvae.action_dim)
    return batch, jax.random.normal(noise_key, (spec.batch_size, spec.cvae.num_latents))


def _update_cvae(
    state: TrainState, hypers: Hyperparameters, params: Params, drawn: tuple[Transition, Array], spec: Spec
) -> tuple[TrainState, Metrics]:
    """One step of one CVAE."""
    del params
    grads, metrics = jax.grad(cvae_loss_fn, has_aux=True)(state.params, spec.cvae, *drawn, hypers.beta[0])
    return state.apply_gradients(grads, spec.cvae_lr), {name: value[None] for name, value in metrics.items()}


def draw_policy(key: Array, rows: Array, spec: Spec) -> tuple[Array, Noise]:
    """Minibatches, packed [F, B, D], and the noise of one block of a policy; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    indices = uniform_indices(index_key, (spec.td3.policy_freq, spec.batch_size), len(rows))
    return rows[indices], td3.draw_noise(noise_key, spec.td3, spec.batch_size)


def _update_policy(
    state: TD3State, hypers: Hyperparameters, params: Params, drawn: tuple[Array, Noise], spec: Spec
) -> tuple[TD3State, Metrics]:
    """One block of F steps of the P policies of one seed and CVAE: they see the same minibatches and noise."""
    # Shared inputs would join all policies' first layers in one product of transposed (copied) parameters.
    rows, noise = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(hypers.discount), *x.shape)), drawn)
    batches = unpack(rows, spec.observation_dim, spec.td3.actor.action_dim)
    return jax.vmap(td3.update, (0, None, None, 0, 0, 0))(state, spec.td3, params, batches, noise, hypers)


def _steps(num_blocks: int, per_block: int, ndim: int) -> np.ndarray:
    """1, 2, 3, ... as `[num_blocks, 1, ..., per_block]`, with axes for members in between."""
    return np.arange(1, num_blocks * per_block + 1).reshape(num_blocks, *(1,) * (ndim - 1), per_block)


def _make_phase(
    block: Block, spec: Spec, num_blocks: int, devices: Sequence[jax.Device] | None, at_once: int | None
) -> Phase:
    """Compiles `(state, seeds [C], hypers [C, P], params [C], rows [N, D]) -> (state, metrics)` of `num_blocks` blocks.

    Blocks run in groups: a group draws all its minibatches and noise at once, and is undone as a whole for a member
    that diverges in it. Metrics are means over the groups in which a member was alive, shaped as the members are. The
    state is donated. Members are shared out over `devices`, by default all of this host's, and train `at_once` on each,
    by default as `AT_ONCE` says of its platform.
    """
    size = max(k for k in range(1, MAX_GROUP + 1) if num_blocks % k == 0)

    def run(
        state: PhaseState, seeds: Array, hypers: Hyperparameters, params: Params, rows: Array
    ) -> tuple[PhaseState, Metrics]:
        keys = stream_keys(seeds, block.stream)
        fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
        draw = jax.vmap(jax.vmap(lambda key: block.draw(key, rows, spec)))
        update = jax.vmap(lambda *args: block.update(*args, spec))
        names: list[str] = []  # of the metrics

        def one(learner: Any, xs: tuple[Any, list[Array]]) -> tuple[Any, Array]:
            drawn, now = xs
            new, metrics = update(with_corrections(learner, now), hypers, params, drawn)
            names[:] = metrics
            # The metrics as one array, so that one kernel writes it.
            return with_corrections(new, corrections(learner)), jnp.stack(list(metrics.values()))

        def group(state: PhaseState, _: None) -> tuple[PhaseState, tuple[Array, Array]]:
            drawn = draw(fold_in(keys, state.block + jnp.arange(size)))
            # All corrections of Adam at once: carried from block to block, they would cost kernels of their own.
            now = list(zip(block.steps, corrections(state.learner), strict=True))
            queues = [correction_after(_steps(size, n, c.ndim), c[None, ..., None, :]) for n, c in now]
            learner, history = jax.lax.scan(one, state.learner, (drawn, queues))
            learner = with_corrections(learner, [correction_after(size * n, c) for n, c in now])
            means = jnp.mean(history, axis=(0, -1))
            alive, learner = guard(state.alive, dict(zip(names, means, strict=True)), learner, state.learner)
            steps = state.gradient_steps + size * max(block.steps) * alive
            return PhaseState(learner, alive, steps, state.block + size), (means, alive)

        state, (means, alive) = jax.lax.scan(group, state, length=num_blocks // size)
        count = jnp.maximum(jnp.sum(alive, axis=0), 1)
        means = jnp.sum(jnp.where(alive[:, None], means, 0), axis=0) / count[None]
        return state, dict(zip(names, means, strict=True))

    run = jax.default_matmul_precision(spec.precision)(run)
    devices = devices or jax.local_devices()
    platform = devices[0].platform
    at_once = at_once or AT_ONCE.get(platform)
    return compile_over(in_turns(run, at_once) if at_once else run, devices, XLA_OPTIONS.get(platform))


def cvae_phase(
    spec: Spec, num_steps: int, devices: Sequence[jax.Device] | None = None, at_once: int | None = None
) -> Phase:
    """The compiled training of all CVAEs by `num_steps` steps; see `_make_phase`."""
    return _make_phase(Block(draw_cvae, _update_cvae, CVAE_TRAIN, (1,)), spec, num_steps, devices, at_once)


def policy_phase(
    spec: Spec, num_steps: int, devices: Sequence[jax.Device] | None = None, at_once: int | None = None
) -> Phase:
    """The compiled training of all policies by `num_steps` steps, a multiple of `policy_freq`; see `_make_phase`."""
    freq = spec.td3.policy_freq
    block = Block(draw_policy, _update_policy, POLICY_TRAIN, (1, freq))
    return _make_phase(block, spec, num_steps // freq, devices, at_once)
