"""BEAR, bootstrapping error accumulation reduction (Kumar et al., 2019): a policy within the support of the data.

As the D4RL paper's code does it (rail-berkeley/d4rl_evaluations); the authors' first code has other networks, rates and
a target policy. A dual variable α bounds the maximum mean discrepancy (MMD) of the policy's samples to a CVAE's, before
their tanh. Losses are of the networks before the update, but for the CVAE, which learns in it first; that code's own
order needs a PyTorch whose gradients went through critics changed since. The best of a hundred samples acts; their
noise is drawn once, the same at every step, so that the policy is a function of the state. That code draws it anew.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, STEPS, Field, choice, real, whole
from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import CVAE, MLP, DoubleCritic
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import cvae_methods, density
from spot_jax.methods.cvae_methods import CLIP, per_state, repeated, soft_min
from spot_jax.methods.gaussian import gaussian, networks, values
from spot_jax.methods.mmd import KERNELS, mmd

LOG_ALPHA_RANGE = (-5.0, 10.0)


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array
    critic_lr: Array
    cvae_lr: Array
    alpha_lr: Array
    discount: Array  # γ
    tau: Array
    beta: Array  # weight of the CVAE's KL term
    min_weight: Array  # of the smaller critic's value in the target; the larger's is 1 minus this
    mmd_sigma: Array  # σ, the kernel's width
    mmd_threshold: Array  # bound of the MMD


class BEAR(NamedTuple):
    """The static parts."""

    cvae: CVAE
    actor: MLP  # to the mean and the log standard deviation of each action before its tanh
    critic: DoubleCritic
    kernel: str
    warmup_steps: int


class BEARState(struct.PyTreeNode):
    """Everything that learns."""

    cvae: TrainState
    actor: TrainState
    critic: TargetTrainState
    alpha: TrainState  # log α


class Noise(NamedTuple):
    """The random numbers of one update, standard normal."""

    cvae: Array  # [B, Z], for the CVAE's loss
    target: Array  # [B, N, A], for N actions at each next state
    mmd_cvae: Array  # [B, M, Z], for M of the CVAE's samples at each state ...
    mmd_actor: Array  # [B, M, A], ... and of the policy's


def init(key: Array, bear: BEAR, observation_dim: int) -> BEARState:
    """Fresh networks, with targets equal to them, and α = 1; the key is consumed."""
    cvae_key, actor_key, critic_key = jax.random.split(key, 3)
    observations = jnp.zeros((1, observation_dim))
    critic_params = bear.critic.init(critic_key, observations, jnp.zeros((1, bear.cvae.action_dim)))
    return BEARState(
        cvae=density.init_cvae(cvae_key, bear.cvae, observation_dim),
        actor=TrainState.create(bear.actor.init(actor_key, observations)),
        critic=TargetTrainState.create(critic_params),
        alpha=TrainState.create(jnp.zeros(())),
    )


def samples(actor: MLP, params: Params, observations: Array, noise: Array) -> Array:
    """The policy's actions before their tanh, `[..., N, A]`, at observations `[..., O]` from noise `[..., N, A]`."""
    mean, log_std = gaussian(actor, params, observations[..., None, :])
    return mean + jnp.exp(log_std) * noise


def target_values(state: BEARState, bear: BEAR, batch: Transition, noise: Array, hypers: Hyperparameters) -> Array:
    """r + γ·mask·max over N of the policy's samples a' of the targets' softened min Q̄(s', a'), `[B]`."""
    next_actions = jnp.tanh(samples(bear.actor, state.actor.params, batch.next_observations, noise))
    next_q = values(bear.critic, state.critic.target_params, batch.next_observations, next_actions)
    q = soft_min(next_q, hypers.min_weight)
    return batch.rewards + hypers.discount * batch.masks * jnp.max(q, axis=-1)


def actor_loss_fn(
    params: Params, bear: BEAR, state: BEARState, batch: Transition, noise: Noise, hypers: Hyperparameters, step: Array
) -> tuple[Array, Metrics]:
    """The mean of α·(MMD − threshold) − min Q(s, a), the latter after the warm-up; metrics are per state, `[B]`."""
    latents = jnp.clip(noise.mmd_cvae, -CLIP, CLIP)
    inputs = jnp.concatenate([repeated(batch.observations, latents.shape[1]), latents], axis=-1)
    decoded = bear.cvae.apply(state.cvae.params, inputs, method=lambda cvae, x: cvae.decoder(x))
    actions = samples(bear.actor, params, batch.observations, noise.mmd_actor)
    distance = mmd(decoded, actions, bear.kernel, hypers.mmd_sigma)
    q = jnp.min(bear.critic.apply(state.critic.params, batch.observations, jnp.tanh(actions[:, 0])), axis=0)
    alpha = jnp.exp(state.alpha.params)
    losses = alpha * (distance - hypers.mmd_threshold) - jnp.where(step < bear.warmup_steps, 0.0, q)
    return jnp.mean(losses), {'actor_loss': losses, 'mmd': distance, 'alpha': jnp.full_like(q, alpha)}


def update(
    state: BEARState, bear: BEAR, batch: Transition, noise: Noise, hypers: Hyperparameters, step: Array
) -> tuple[BEARState, Metrics]:
    """A step of the CVAE, then one of α, which ascends the policy's loss, of the policy and of the critics at once."""
    cvae, cvae_metrics = density.update_cvae(state.cvae, bear.cvae, batch, noise.cvae, hypers.beta, hypers.cvae_lr)
    state = state.replace(cvae=cvae)
    target_q = target_values(state, bear, batch, noise.target, hypers)
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, bear.critic, batch, target_q)
    critic = critic.update_target(hypers.tau)
    actor, actor_metrics = state.actor.minimize(actor_loss_fn, hypers.actor_lr, bear, state, batch, noise, hypers, step)
    excess = jnp.mean(actor_metrics['mmd'] - hypers.mmd_threshold)
    alpha = state.alpha.apply_gradients(-jnp.exp(state.alpha.params) * excess, hypers.alpha_lr)
    alpha = alpha.replace(params=jnp.clip(alpha.params, *LOG_ALPHA_RANGE))
    return BEARState(cvae, actor, critic, alpha), per_state(cvae_metrics, batch) | critic_metrics | actor_metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    size, of_both = options.batch_size, networks(tuple(options.hidden_dims), action_dim)
    bear = BEAR(cvae_methods.cvae_of(options, action_dim), *of_both, options.kernel, options.warmup_steps)

    def draw(key: Array, data: Data) -> tuple[Transition, Noise]:
        index_key, *noise_keys = jax.random.split(key, 5)
        z, m = bear.cvae.num_latents, options.mmd_samples
        shapes = (size, z), (size, options.target_candidates, action_dim), (size, m, z), (size, m, action_dim)
        rows = uniform_rows(index_key, data, (size,))
        return unpack(rows, observation_dim, action_dim), Noise(*map(jax.random.normal, noise_keys, shapes))

    def policy(learner: BEARState, shared: Any, hypers: Hyperparameters) -> Params:
        noise = jax.random.normal(jax.random.key(0), (options.candidates, action_dim))
        return {'actor': learner.actor.params, 'critic': learner.critic.params, 'noise': noise}

    def act(policy: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        actions = jnp.tanh(samples(bear.actor, policy['actor'], observation, policy['noise']))
        q = bear.critic.first(policy['critic'], repeated(observation, len(actions)), actions)
        return actions[jnp.argmax(q)], memory

    return Algorithm(
        init=lambda key: init(key, bear, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, bear, drawn[0], drawn[1], hypers, step),
        policy=policy,
        act=act,
        steps=(1, 1, 1, 1),
    )


DATA = ('medium', 'medium-replay', 'medium-expert')
PRESETS: dict[str, dict[str, Any]] = {
    'maze': {'mmd_sigma': 50.0},  # the code's default: nothing is said of mazes
    # The MMD comes no lower than 0.08 on these noisy data: with a tighter bound α runs away, and Q has no say.
    'pointmaze': cvae_methods.POINTMAZE | {'warmup_steps': 2000, 'mmd_threshold': 0.15},
    **{f'{robot}-{data}': {'kernel': 'laplacian'} for robot in ('hopper', 'walker2d') for data in DATA},
}

METHOD = Method(
    title=lambda options: 'BEAR',
    hyperparameters=Hyperparameters,
    fields=cvae_methods.FIELDS
    | {
        'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer, of policy and critics'),
        'actor_lr': Field(1e-4, POSITIVE, "the policy's learning rate"),
        'critic_lr': Field(3e-4, POSITIVE, "the critics' learning rate"),
        'cvae_lr': Field(3e-4, POSITIVE, "the CVAE's learning rate"),
        'alpha_lr': Field(1e-3, POSITIVE, "log α's learning rate"),
        'kernel': Field('gaussian', choice(KERNELS), "the MMD's"),
        'mmd_sigma': Field(20.0, POSITIVE, "σ, the kernel's width: exp(−distance / 2σ)"),
        'mmd_threshold': Field(0.05, real(), 'bound of the MMD, which α keeps'),
        'mmd_samples': Field(4, whole(1), 'actions of the policy and of the CVAE at a state, for the MMD'),
        'warmup_steps': Field(40_000, STEPS, 'updates in which the policy only keeps to the data'),
        'target_candidates': Field(10, whole(1), "the policy's actions at a next state"),
        'candidates': Field(100, whole(1), "the policy's actions when acting"),
    },
    presets=PRESETS,
    metrics=('cvae_loss', 'recon_loss', 'kl_loss', 'critic_loss', 'q', 'q_magnitude', 'actor_loss', 'mmd', 'alpha'),
    make=make,
    policy_fields=cvae_methods.POLICY_FIELDS,
    density=cvae_methods.density_of,
)
