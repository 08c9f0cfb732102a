"""Transitions, and names of the types that all parts of the package share."""

from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any
Metrics = dict[str, Array]


class Transition(NamedTuple):
    """A minibatch of transitions, `[B, ...]` each, float32.

    `masks` [B] is 1 where the next state's value may be bootstrapped and 0 after a terminal; a time-limit
    truncation is not a terminal.
    """

    observations: Array  # [B, O]
    actions: Array  # [B, A], in [-1, 1]
    rewards: Array  # [B]
    masks: Array  # [B]
    next_observations: Array  # [B, O]


def unpack(rows: Any, observation_dim: int, action_dim: int) -> Transition:
    """Splits packed rows `[..., 2 * O + A + 2]` (NumPy or JAX) into a `Transition`.

    The columns are observations, actions, rewards, masks, next observations: a dataset is one array on the device,
    so that a minibatch is one gather.
    """
    o, a = observation_dim, action_dim
    return Transition(
        rows[..., :o], rows[..., o : o + a], rows[..., o + a], rows[..., o + a + 1], rows[..., o + a + 2 :]
    )
