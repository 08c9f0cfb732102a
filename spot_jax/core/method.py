"""What a method is: its science as pure functions of one member, and what a config says of it.

A method is one file in `methods/` that ends in a `Method`, and one line in `methods.METHODS`. Nothing outside knows its
name. Everything here is of one member; a population vmaps it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from spot_jax.core.fields import Field
from spot_jax.types import Array, Metrics, Params


class Data(NamedTuple):
    """A dataset on the device, N transitions in the order of their episodes."""

    rows: Array  # [N, 2 * O + A + 2], packed as in `types.unpack`
    first: Array  # [N] int32, the first row of a row's episode
    last: Array  # [N] int32, the last row of a row's episode
    togo: Array  # [N] float32, rewards from a row to its episode's end, undiscounted


class Algorithm(NamedTuple):
    """How one member learns and acts.

    init: (key) -> learner; the key is consumed.
    draw: (key, data) -> all that a block of updates draws: minibatches and noise. The settings of one seed share it;
        the key is consumed.
    update: (learner, shared, drawn, hypers, step) -> (learner, metrics), a block of `block` gradient steps. `shared` is
        what the stages before it came to, `step` (int32) the gradient steps done before. Metrics are `[B]` each.
    policy: (learner, shared, hypers) -> all that acting needs.
    act: (policy, memory, observation [O], reward []) -> (action [A] in [-1, 1], memory), without exploration. The
        reward is that of the step before, 0 at an episode's start.
    memory: () -> what acting remembers at an episode's start; () if nothing.
    explore: (policy, observation [O], noise [A], scale) -> action [A] in [-1, 1], from standard normal noise; None if
        the method does not learn online. `scale` is `config.online.exploration_noise`.
    block: gradient steps of a block.
    steps: in a block, of each optimiser in the order of the learner's fields.
    """

    init: Callable[[Array], Any]
    draw: Callable[[Array, Data], Any]
    update: Callable[[Any, Any, Any, Any, Array], tuple[Any, Metrics]]
    policy: Callable[[Any, Any, Any], Params]
    act: Callable[[Params, Any, Array, Array], tuple[Array, Any]]
    memory: Callable[[], Any]
    explore: Callable[[Params, Array, Array, Array], Array] | None
    block: int
    steps: tuple[int, ...]


class Stage(NamedTuple):
    """What is trained before the policies and shared by several members: SPOT's CVAE.

    init, draw and update are as an `Algorithm`'s, with what the stages before it came to as `shared`.
    result: (learner, shared) -> what later stages and the policies get as `shared`.
    """

    name: str
    init: Callable[[Array], Any]
    draw: Callable[[Array, Data], Any]
    update: Callable[[Any, Any, Any, Any, Array], tuple[Any, Metrics]]
    result: Callable[[Any, Any], Any]
    block: int
    steps: tuple[int, ...]


class Method(NamedTuple):
    """A method as a config names it.

    hyperparameters: a NamedTuple type of the scalars that are traced, so that a grid may span them.
    fields: its options, `config.NAME.FIELD`, each with its default; those named as hyperparameters give their values.
    presets: options that differ for a family of tasks ('locomotion', 'maze') or for a task ('hopper-medium',
        'antmaze-umaze'), the latter last.
    metrics: its columns in metrics.csv, in the order in which they come.
    make: (its options, observation_dim, action_dim) -> its `Algorithm`.
    title: what tables and plots call it.
    """

    hyperparameters: type
    fields: Mapping[str, Field]
    presets: Mapping[str, Mapping[str, Any]]
    metrics: tuple[str, ...]
    make: Callable[[Any, int, int], Algorithm]
    title: str
