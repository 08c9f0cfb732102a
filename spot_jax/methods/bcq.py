"""BCQ, batch-constrained Q-learning (Fujimoto et al., 2019): the best of what a CVAE of the data's actions proposes.

As the authors' code does it (sfujim/BCQ, continuous_BCQ): the CVAE learns in the same update as the rest; a network
moves proposals by up to φ; the critics' target takes the best of ten; the best of a hundred acts. But the latents of
these hundred are drawn once, the same at every step, so that the policy is a function of the state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, Field, real, whole
from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import cvae_methods, density
from spot_jax.methods.cvae_methods import CLIP, per_state, perturbed, repeated, soft_min


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array
    critic_lr: Array
    cvae_lr: Array
    discount: Array  # γ
    tau: Array
    beta: Array  # weight of the CVAE's KL term
    phi: Array  # φ, how far an action may be moved
    min_weight: Array  # of the smaller critic's value in the target; the larger's is 1 minus this


class BCQ(NamedTuple):
    """The static parts."""

    cvae: CVAE
    actor: Actor  # tanh of an MLP of observations and actions, `perturbed` by which the proposals are
    critic: DoubleCritic


class BCQState(struct.PyTreeNode):
    """Everything that learns."""

    cvae: TrainState
    actor: TargetTrainState
    critic: TargetTrainState


class Noise(NamedTuple):
    """The random numbers of one update, standard normal."""

    cvae: Array  # [B, Z], for the CVAE's loss
    target: Array  # [B, N, Z], for N proposals at each next state
    actor: Array  # [B, Z], for one at each state


def init(key: Array, bcq: BCQ, observation_dim: int) -> BCQState:
    """Fresh networks, with targets equal to them; the key is consumed."""
    cvae_key, actor_key, critic_key = jax.random.split(key, 3)
    observations, actions = jnp.zeros((1, observation_dim)), jnp.zeros((1, bcq.actor.action_dim))
    actor_params = bcq.actor.init(actor_key, jnp.concatenate([observations, actions], axis=-1))
    critic_params = bcq.critic.init(critic_key, observations, actions)
    return BCQState(
        cvae=density.init_cvae(cvae_key, bcq.cvae, observation_dim),
        actor=TargetTrainState.create(actor_params),
        critic=TargetTrainState.create(critic_params),
    )


def proposals(bcq: BCQ, cvae_params: Params, params: Params, observations: Array, noise: Array, phi: Array) -> Array:
    """Perturbed actions `[..., A]` that the CVAE decodes from noise `[..., Z]`, clipped, at observations `[..., O]`."""
    decoded = bcq.cvae.apply(cvae_params, observations, jnp.clip(noise, -CLIP, CLIP), method='decode')
    return perturbed(bcq.actor, params, observations, decoded, phi)


def target_values(state: BCQState, bcq: BCQ, batch: Transition, noise: Array, hypers: Hyperparameters) -> Array:
    """r + γ·mask·max over N proposals a' of the targets' softened min Q̄(s', a'), `[B]`, from noise [B, N, Z]."""
    observations = repeated(batch.next_observations, noise.shape[1])
    actions = proposals(bcq, state.cvae.params, state.actor.target_params, observations, noise, hypers.phi)
    q = soft_min(bcq.critic.apply(state.critic.target_params, observations, actions), hypers.min_weight)
    return batch.rewards + hypers.discount * batch.masks * jnp.max(q, axis=-1)


def actor_loss_fn(
    params: Params, bcq: BCQ, state: BCQState, batch: Transition, noise: Array, phi: Array
) -> tuple[Array, Metrics]:
    """−mean Q1(s, a), a a proposal from noise [B, Z]; metrics are per state, `[B]`."""
    actions = proposals(bcq, state.cvae.params, params, batch.observations, noise, phi)
    losses = -bcq.critic.first(state.critic.params, batch.observations, actions)
    return jnp.mean(losses), {'actor_loss': losses}


def update(
    state: BCQState, bcq: BCQ, batch: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[BCQState, Metrics]:
    """A step of the CVAE, of the critics and of the perturbation, each with those before it; both targets move by τ."""
    cvae, cvae_metrics = density.update_cvae(state.cvae, bcq.cvae, batch, noise.cvae, hypers.beta, hypers.cvae_lr)
    state = state.replace(cvae=cvae)
    target_q = target_values(state, bcq, batch, noise.target, hypers)
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, bcq.critic, batch, target_q)
    state = state.replace(critic=critic)
    actor, actor_metrics = state.actor.minimize(
        actor_loss_fn, hypers.actor_lr, bcq, state, batch, noise.actor, hypers.phi
    )
    metrics = per_state(cvae_metrics, batch) | critic_metrics | actor_metrics
    return BCQState(cvae, actor.update_target(hypers.tau), critic.update_target(hypers.tau)), metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    hidden_dims, size = tuple(options.hidden_dims), options.batch_size
    bcq = BCQ(cvae_methods.cvae_of(options, action_dim), Actor(action_dim, hidden_dims), DoubleCritic(hidden_dims))
    latent_dim = bcq.cvae.num_latents

    def draw(key: Array, data: Data) -> tuple[Transition, Noise]:
        index_key, *noise_keys = jax.random.split(key, 4)
        shapes = (size, latent_dim), (size, options.target_candidates, latent_dim), (size, latent_dim)
        rows = uniform_rows(index_key, data, (size,))
        return unpack(rows, observation_dim, action_dim), Noise(*map(jax.random.normal, noise_keys, shapes))

    def policy(learner: BCQState, shared: Any, hypers: Hyperparameters) -> Params:
        latents = jax.random.normal(jax.random.key(0), (options.candidates, latent_dim))
        parts = {name: getattr(learner, name).params for name in ('cvae', 'actor', 'critic')}
        return parts | {'phi': hypers.phi, 'latents': latents}

    def act(policy: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        observations = repeated(observation, len(policy['latents']))
        actions = proposals(bcq, policy['cvae'], policy['actor'], observations, policy['latents'], policy['phi'])
        return actions[jnp.argmax(bcq.critic.first(policy['critic'], observations, actions))], memory

    return Algorithm(
        init=lambda key: init(key, bcq, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, bcq, drawn[0], drawn[1], hypers),
        policy=policy,
        act=act,
        steps=(1, 1, 1),
    )


METHOD = Method(
    title=lambda options: 'BCQ',
    hyperparameters=Hyperparameters,
    fields=cvae_methods.FIELDS
    | {
        'batch_size': Field(100, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((400, 300), HIDDEN_DIMS, 'units of each hidden layer, of perturbation and critics'),
        'actor_lr': Field(1e-3, POSITIVE, "the perturbation's learning rate"),
        'critic_lr': Field(1e-3, POSITIVE, "the critics' learning rate"),
        'cvae_lr': Field(1e-3, POSITIVE, "the CVAE's learning rate"),
        'phi': Field(0.05, real(), 'φ, how far a proposed action may be moved'),
        'target_candidates': Field(10, whole(1), 'proposals at a next state'),
        'candidates': Field(100, whole(1), 'proposals when acting'),
    },
    presets={'pointmaze': cvae_methods.POINTMAZE},
    metrics=('cvae_loss', 'recon_loss', 'kl_loss', 'critic_loss', 'q', 'q_magnitude', 'actor_loss'),
    make=make,
    policy_fields=cvae_methods.POLICY_FIELDS,
    density=cvae_methods.density_of,
)
