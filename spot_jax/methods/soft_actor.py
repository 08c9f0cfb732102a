"""The policy's side of soft actor-critic, as in CQL's authors' code: entropy, its learnt weight, cloning at first."""

import jax.numpy as jnp

from spot_jax.core.networks import MLP, DoubleCritic, tanh_gaussian_log_prob
from spot_jax.core.train_state import TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition
from spot_jax.methods.gaussian import gaussian, sample, values

METRICS = ('actor_loss', 'actor_q', 'log_pi', 'temperature')


def actor_loss_fn(
    params: Params,
    actor: MLP,
    critic: DoubleCritic,
    critic_params: Params,
    batch: Transition,
    noise: Array,
    temperature: Array,
    clones: Array,
) -> tuple[Array, Metrics]:
    """The mean of temperature·log π(a|s) − min Q(s, a); where it `clones`, − log π(the data's action|s) instead of Q.

    `noise` is `[B, 1, A]`. Metrics are per state, `[B]`. Only the policy's parameters get gradients.
    """
    actions, log_pi = sample(actor, params, batch.observations, noise)
    q = jnp.min(values(critic, critic_params, batch.observations, actions), axis=0)[:, 0]
    mean, log_std = gaussian(actor, params, batch.observations)
    cloned = tanh_gaussian_log_prob(jnp.clip(mean, -9.0, 9.0), log_std, batch.actions)
    losses = temperature * log_pi[:, 0] - jnp.where(clones, cloned, q)
    return jnp.mean(losses), {'actor_loss': losses, 'actor_q': q, 'log_pi': log_pi[:, 0]}


def update(
    policy: TrainState,
    log_temperature: TrainState,
    fixed: tuple[MLP, DoubleCritic, Params],
    batch: Transition,
    noise: Array,
    lr: Array,
    clones: Array,
) -> tuple[TrainState, TrainState, Metrics]:
    """A step of the entropy's weight, which should hold the entropy at −A, then one of the policy with the new weight.

    `fixed` are the networks, and the critics' parameters; `noise` and metrics as above.
    """
    _, log_pi = sample(fixed[0], policy.params, batch.observations, noise)
    log_temperature = log_temperature.apply_gradients(batch.actions.shape[-1] - jnp.mean(log_pi), lr)
    temperature = jnp.exp(log_temperature.params)
    policy, metrics = policy.minimize(actor_loss_fn, lr, *fixed, batch, noise, temperature, clones)
    return policy, log_temperature, metrics | {'temperature': jnp.broadcast_to(temperature, batch.rewards.shape)}
