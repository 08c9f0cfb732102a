"""PLAS, policy in the latent action space (Zhou et al., 2020): a policy that chooses the latents of a CVAE's decoder.

As the authors' code does it (Wenxuan-Zhou/PLAS), with 500 000 steps of the CVAE; theirs makes as many of the policy.
With `perturbation` a network moves the decoded action by up to φ, as BCQ's does; the two then have one optimiser. The
values of φ for single tasks are d3rlpy's (reproductions/offline/plas_with_perturbation.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import FOLDER, HIDDEN_DIMS, POSITIVE, SOME_STEPS, Field, flag, real, whole
from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.method import Algorithm, Data, Idle, Method, Stage
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import cvae_methods, density
from spot_jax.methods.cvae_methods import cvae_of, perturbed, soft_min
from spot_jax.methods.density import CVAEStage, Density


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array
    critic_lr: Array
    discount: Array  # γ
    tau: Array
    beta: Array  # weight of the CVAE's KL term
    max_latent: Array  # bound of the latents that the policy chooses
    phi: Array  # φ, how far an action may be moved
    min_weight: Array  # of the smaller critic's value in the target; the larger's is 1 minus this


class PLAS(NamedTuple):
    """The static parts."""

    cvae: CVAE
    actor: Actor  # latents, in [-1, 1]
    perturbation: Actor | None
    critic: DoubleCritic


class PLASState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TargetTrainState  # of {'latent': ...}, and {'perturbation': ...} if there is one
    critic: TargetTrainState


def init(key: Array, plas: PLAS, observation_dim: int) -> PLASState:
    """Fresh networks, with targets equal to them; the key is consumed."""
    latent_key, perturbation_key, critic_key = jax.random.split(key, 3)
    observations, actions = jnp.zeros((1, observation_dim)), jnp.zeros((1, plas.cvae.action_dim))
    actor_params = {'latent': plas.actor.init(latent_key, observations)}
    if plas.perturbation is not None:
        inputs = jnp.concatenate([observations, actions], axis=-1)
        actor_params['perturbation'] = plas.perturbation.init(perturbation_key, inputs)
    critic_params = plas.critic.init(critic_key, observations, actions)
    return PLASState(
        actor=TargetTrainState.create(actor_params),
        critic=TargetTrainState.create(critic_params),
    )


def actions_of(plas: PLAS, params: Params, cvae_params: Params, observations: Array, hypers: Hyperparameters) -> Array:
    """The policy's actions `[..., A]`: latents up to their bound, decoded, and perturbed if there is a perturbation."""
    latents = hypers.max_latent * plas.actor.apply(params['latent'], observations)
    actions = plas.cvae.apply(cvae_params, observations, latents, method='decode')
    if plas.perturbation is None:
        return actions
    return perturbed(plas.perturbation, params['perturbation'], observations, actions, hypers.phi)


def target_values(
    state: PLASState, plas: PLAS, cvae_params: Params, batch: Transition, hypers: Hyperparameters
) -> Array:
    """r + γ·mask·the targets' softened min Q̄(s', π̄(s')), `[B]`."""
    next_actions = actions_of(plas, state.actor.target_params, cvae_params, batch.next_observations, hypers)
    next_q = plas.critic.apply(state.critic.target_params, batch.next_observations, next_actions)
    return batch.rewards + hypers.discount * batch.masks * soft_min(next_q, hypers.min_weight)


def actor_loss_fn(
    params: Params, plas: PLAS, critic_params: Params, cvae_params: Params, batch: Transition, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """−mean Q1(s, π(s)); metrics are per state, `[B]`. Only the actor's parameters get gradients."""
    actions = actions_of(plas, params, cvae_params, batch.observations, hypers)
    losses = -plas.critic.first(critic_params, batch.observations, actions)
    return jnp.mean(losses), {'actor_loss': losses}


def update(
    state: PLASState, plas: PLAS, cvae_params: Params, batch: Transition, hypers: Hyperparameters
) -> tuple[PLASState, Metrics]:
    """A step of the critics, of the actor with the new critics, and both targets move by τ."""
    target_q = target_values(state, plas, cvae_params, batch, hypers)
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, plas.critic, batch, target_q)
    actor, actor_metrics = state.actor.minimize(
        actor_loss_fn, hypers.actor_lr, plas, critic.params, cvae_params, batch, hypers
    )
    return PLASState(actor.update_target(hypers.tau), critic.update_target(hypers.tau)), critic_metrics | actor_metrics


STAGE_FIELDS = ('cvae_hidden_dims', 'cvae_latent_dim', 'normalize_observations')


def stages(options: Any, observation_dim: int, action_dim: int) -> tuple[Stage, ...]:
    """The CVAE."""
    cvae = cvae_of(options, action_dim)
    trained = CVAEStage(cvae, observation_dim, options.batch_size, options.cvae_lr, options.cvae_steps)
    return (density.cvae_stage(trained, lambda hypers: hypers.beta, STAGE_FIELDS),)


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    hidden_dims, cvae = tuple(options.hidden_dims), cvae_of(options, action_dim)
    plas = PLAS(
        cvae=cvae.clone(frozen=True),
        actor=Actor(cvae.num_latents, hidden_dims),
        perturbation=Actor(action_dim, hidden_dims) if options.perturbation else None,
        critic=DoubleCritic(hidden_dims),
    )

    def draw(key: Array, data: Data) -> Transition:
        rows = uniform_rows(key, data, (options.batch_size,))
        return unpack(rows, observation_dim, action_dim)

    def act(policy: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        return actions_of(plas, policy['actor'], policy['cvae'], observation, policy['hypers']), memory

    return Algorithm(
        init=lambda key: init(key, plas, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, plas, shared, drawn, hypers),
        policy=lambda learner, shared, hypers: {'actor': learner.actor.params, 'cvae': shared, 'hypers': hypers},
        act=act,
        steps=(1, 1),
    )


PHI = {
    'halfcheetah': {'medium': 0.1, 'medium-replay': 0.05, 'medium-expert': 0.01},
    'hopper': {'medium': 0.01, 'medium-replay': 0.2, 'medium-expert': 0.01},
    'walker2d': {'medium': 0.1, 'medium-replay': 0.01, 'medium-expert': 0.01},
}
PRESETS: dict[str, dict[str, Any]] = {
    **{f'{robot}-{data}': {'phi': phi} for robot, of in PHI.items() for data, phi in of.items()},
    # Latents up to 2 leave the data there: success 0 on UMaze after 10 000 updates, but 1 after 4000 with 0.5.
    'pointmaze': cvae_methods.POINTMAZE | {'cvae_steps': 10_000, 'actor_lr': 3e-4, 'max_latent': 0.5},
}

METHOD = Method(
    title=lambda options: 'PLAS+P' if options.perturbation else 'PLAS',
    hyperparameters=Hyperparameters,
    fields=cvae_methods.FIELDS
    | {
        'batch_size': Field(100, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field(
            (400, 300), HIDDEN_DIMS, 'units of each hidden layer, of policy, perturbation and critics'
        ),
        'cvae_lr': Field(1e-4, POSITIVE, 'learning rate'),
        'cvae_steps': Field(500_000, SOME_STEPS, 'gradient steps'),
        'cvae_restore': Field(None, FOLDER, "a run's folder: take its CVAEs, of the same seeds and β, train none"),
        'actor_lr': Field(1e-4, POSITIVE, "the policy's learning rate, and the perturbation's"),
        'critic_lr': Field(1e-3, POSITIVE, "the critics' learning rate"),
        'max_latent': Field(2.0, POSITIVE, 'bound of the latents that the policy chooses'),
        'perturbation': Field(False, flag(), 'a network moves the decoded actions ...'),
        'phi': Field(0.05, real(), '... by up to this, φ'),
    },
    presets=PRESETS,
    metrics=('cvae_loss', 'recon_loss', 'kl_loss', 'critic_loss', 'q', 'q_magnitude', 'actor_loss'),
    make=make,
    stages=stages,
    shared_by=('beta',),
    policy_fields=('hidden_dims', 'perturbation', 'normalize_observations'),
    restore='cvae_restore',
    idle=(
        Idle(lambda o: not o.perturbation, 'plas.perturbation is false', ('phi',)),
        Idle(lambda o: o.cvae_restore is not None, 'plas.cvae_restore is given', ('cvae_steps', 'cvae_lr')),
    ),
    density=lambda options, observation_dim, action_dim, learner, shared, hypers: Density(
        cvae_of(options, action_dim), shared, hypers.beta
    ),
)
