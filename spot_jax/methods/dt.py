"""DT, Decision Transformer (Chen et al. 2021): a sequence model of returns-to-go, states and actions.

It learns to do what the data did where so much return was still to come, and acts by asking for a target return. As
the authors' code does it (kzl/decision-transformer), but for two things: a window *ends* at a row that is drawn, where
theirs begins at one, so that each row is predicted as often from all that acting would know; and observations are
normalised by std + 1e-3, as everywhere here, not 1e-6. CORL's code pads on the right, has GELUs, starts all weights
from N(0, 0.02²) and shows returns of mazes as they come, 1 at the goal: its returns are the mazes' presets here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from spot_jax.core.fields import LARGE, POSITIVE, SOME_STEPS, Field, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import dense
from spot_jax.core.sampling import uniform_indices
from spot_jax.core.train_state import TrainState
from spot_jax.core.transformer import EPSILON, Transformer
from spot_jax.core.types import Array, Metrics, Params


class Hyperparameters(NamedTuple):
    """The traced hyperparameters: scalars here, arrays over a population."""

    actor_lr: Array  # after the warm-up
    weight_decay: Array  # AdamW's, of all parameters
    max_norm: Array  # of the gradients
    target_return: Array  # what acting asks for, in the task's units (plus reward_shift a step)


class Windows(NamedTuple):
    """The last K steps up to one, padded on the left."""

    observations: Array  # [..., K, O]
    actions: Array  # [..., K, A]; the last one is not looked at
    returns_to_go: Array  # [..., K], scaled rewards from each step to the episode's end
    timesteps: Array  # [..., K] int32, counted from the episode's first row
    real: Array  # [..., K] float32, 0 where it is padding


class Drawn(NamedTuple):
    """What an update takes from the data and from chance."""

    windows: Windows  # [B, K, ...]
    key: Array | None  # of dropout; None: there is none


class Memory(NamedTuple):
    """What acting remembers: its last K steps, the latest last."""

    observations: Array  # [K, O]
    actions: Array  # [K, A]
    returns_to_go: Array  # [K]
    step: Array  # [] int32, steps taken in this episode


class DT(nn.Module):
    """The policy; each step is three tokens, its return-to-go, its observation and its action, in this order."""

    action_dim: int
    head_dim: int = 128
    num_heads: int = 1
    num_layers: int = 3
    num_timesteps: int = 1000
    dropout: float = 0.0

    @nn.compact
    def __call__(self, windows: Windows, key: Array | None = None) -> Array:
        """Actions `[..., K, A]` in [-1, 1], each from what came before it; meaningless where nothing is real.

        The key, which is consumed, is of dropout; without one there is none.
        """
        width = self.num_heads * self.head_dim
        parts = (windows.returns_to_go[..., None], windows.observations, windows.actions)
        table = nn.Embed(self.num_timesteps, width, embedding_init=nn.initializers.normal(1.0))
        times = table(jnp.clip(windows.timesteps, 0, self.num_timesteps - 1))
        tokens = nn.LayerNorm(EPSILON)(jnp.stack([dense(part, width) + times for part in parts], axis=-2))
        axes = tokens.shape[:-2]
        x = Transformer(self.num_layers, self.num_heads, self.dropout)(
            tokens.reshape(*axes[:-1], 3 * axes[-1], width), jnp.repeat(windows.real, 3, axis=-1), key
        )
        return jnp.tanh(dense(x.reshape(*axes, 3, width)[..., 1, :], self.action_dim))


class DTState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TrainState


def windows_of(data: Data, rows: Array, context: int, observation_dim: int, action_dim: int) -> Windows:
    """The windows [B, K, ...] that end at `rows` [B] and begin in the same episode; its first row pads them."""
    o, a = observation_dim, action_dim
    first = data.first[rows][:, None]
    index = rows[:, None] + jnp.arange(1 - context, 1)[None]
    inside = jnp.maximum(index, first)
    columns = data.rows[inside, : o + a]
    is_real = (index >= first).astype(jnp.float32)
    return Windows(columns[..., :o], columns[..., o:], data.returns_to_go[inside], inside - first, is_real)


def loss_fn(params: Params, dt: DT, drawn: Drawn) -> tuple[Array, Metrics]:
    """The mean squared error to the data's actions over all steps that are real; metrics are `[B]`, of this mean."""
    windows = drawn.windows
    errors = jnp.mean((dt.apply(params, windows, drawn.key) - windows.actions) ** 2, axis=-1)
    losses = jnp.sum(windows.real * errors, axis=-1) / jnp.mean(jnp.sum(windows.real, axis=-1))
    return jnp.mean(losses), {'actor_loss': losses}


def update(
    state: DTState, dt: DT, drawn: Drawn, hypers: Hyperparameters, step: Array, warmup_steps: int
) -> tuple[DTState, Metrics]:
    """A step of AdamW on one minibatch; its rate rises over the first `warmup_steps` steps from 0, as a line."""
    grads, metrics = jax.grad(loss_fn, has_aux=True)(state.actor.params, dt, drawn)
    rate = hypers.actor_lr * jnp.minimum((step + 1) / warmup_steps, 1.0)
    return DTState(state.actor.apply_gradients(grads, rate, hypers.weight_decay, hypers.max_norm)), metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The method with its `fields`' values."""
    o, a, context = observation_dim, action_dim, options.context
    shape = (options.head_dim, options.num_heads, options.num_layers, options.num_timesteps)
    dt = DT(a, *shape, options.dropout)

    def memory() -> Memory:
        return Memory(jnp.zeros((context, o)), jnp.zeros((context, a)), jnp.zeros(context), jnp.int32(0))

    def remembered(memory: Memory, observation: Array, returns_to_go: Array) -> Windows:
        """The window that ends now, with an action of 0."""
        push = lambda kept, new: jnp.concatenate([kept[1:], new[None]])
        timesteps = memory.step + jnp.arange(1 - context, 1)
        kept = (
            push(memory.observations, observation),
            push(memory.actions, jnp.zeros(a)),
            push(memory.returns_to_go, returns_to_go),
        )
        return Windows(*kept, timesteps, (timesteps >= 0).astype(jnp.float32))

    def init(key: Array) -> DTState:
        return DTState(TrainState.create(dt.init(key, remembered(memory(), jnp.zeros(o), jnp.float32(0)))))

    def draw(key: Array, data: Data) -> Drawn:
        row_key, dropout_key = jax.random.split(key)
        rows = uniform_indices(row_key, (options.batch_size,), len(data.rows))
        return Drawn(windows_of(data, rows, context, o, a), dropout_key if options.dropout else None)

    def act(policy: Params, memory: Memory, observation: Array, reward: Array) -> tuple[Array, Memory]:
        params, target = policy
        earned = options.reward_scale * (reward + options.reward_shift)
        returns_to_go = jnp.where(memory.step == 0, target, memory.returns_to_go[-1] - earned)
        now = remembered(memory, observation, returns_to_go)
        action = dt.apply(params, now)[-1]
        return action, Memory(now.observations, now.actions.at[-1].set(action), now.returns_to_go, memory.step + 1)

    return Algorithm(
        init=init,
        draw=draw,
        update=lambda learner, _, drawn, hypers, step: update(learner, dt, drawn, hypers, step, options.warmup_steps),
        policy=lambda learner, _, hypers: (learner.actor.params, options.reward_scale * hypers.target_return),
        act=act,
        memory=memory,
        steps=(1,),
    )


DATA = ('medium', 'medium-replay', 'medium-expert')
TARGETS = {'hopper': 3600.0, 'halfcheetah': 12000.0, 'walker2d': 5000.0}  # the authors also ask for half of each

METHOD = Method(
    title=lambda options: 'DT',
    hyperparameters=Hyperparameters,
    fields={
        'batch_size': Field(64, whole(1), 'windows in a minibatch'),
        'context': Field(20, whole(1), 'K, steps of a window'),
        'num_layers': Field(3, whole(1, 100), 'blocks of the transformer'),
        'num_heads': Field(1, whole(1), 'of its attention'),
        'head_dim': Field(128, whole(1), 'width of a head; tokens are num_heads times as wide'),
        'num_timesteps': Field(1000, whole(1), 'steps of an episode that are told apart; later ones are as the last'),
        'dropout': Field(0.1, real(0, 0.99), 'of embeddings, attention and what blocks add'),
        'actor_lr': Field(1e-4, POSITIVE, 'learning rate after the warm-up'),
        'warmup_steps': Field(10_000, SOME_STEPS, 'over which the learning rate rises'),
        'weight_decay': Field(1e-4, real(), "AdamW's"),
        'max_norm': Field(0.25, POSITIVE, "bound of the gradients' norm"),
        'target_return': Field(3600.0, real(-LARGE), 'return that acting asks for; reward_shift counts at each step'),
        'normalize_observations': Field(True, flag(), '(s − mean) / (std + 1e-3)'),
        'reward_scale': Field(1e-3, POSITIVE, 'rewards become this ...'),
        'reward_shift': Field(0.0, real(-LARGE), '... times (the reward + this)'),
    },
    presets={
        'maze': {'target_return': 1.0, 'reward_scale': 1.0, 'reward_shift': 1.0},  # 1 at the goal, 0 elsewhere
        # Ours: an update of the authors' sizes takes two cores a quarter of a second.
        'pointmaze': {'head_dim': 64, 'num_layers': 2, 'context': 10, 'actor_lr': 1e-3, 'warmup_steps': 200},
    }
    | {f'{robot}-{kind}': {'target_return': target} for robot, target in TARGETS.items() for kind in DATA},
    metrics=('actor_loss',),
    make=make,
    policy_fields=('context', 'num_layers', 'num_heads', 'head_dim', 'num_timesteps', 'normalize_observations'),
)
