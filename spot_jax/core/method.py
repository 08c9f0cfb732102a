"""What a method is: its science as pure functions of one member, and what a config says of it.

A method is one file in `methods/` that ends in a `Method`, and one line in `methods.METHODS`. Nothing outside knows its
name. Everything here is of one member; a population vmaps it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from spot_jax.core.fields import Field
from spot_jax.core.types import Array, Metrics, Params


class Data(NamedTuple):
    """A dataset on the device, N transitions in the order of their episodes, which a terminal ends."""

    rows: Array  # [N, 2 * O + A + 2], packed as in `types.unpack`
    first: Array  # [N] int32, the first row of a row's episode
    last: Array  # [N] int32, the last row of a row's episode
    returns_to_go: Array  # [N] float32, rewards from a row to its episode's end, discounted as the method says


class Algorithm(NamedTuple):
    """How one member learns and acts.

    init: (key) -> learner; the key is consumed.
    draw: (key, data) -> what a block of updates draws, which the settings of one seed share; the key is consumed.
    update: (learner, shared, drawn, hypers, step) -> (learner, metrics), a block of `block` gradient steps. `shared` is
        what the stages before it came to, `step` (int32) the gradient steps done before. Metrics are `[B]` each; of
        `q_magnitude`, the mean says whether the member has diverged.
    policy: (learner, shared, hypers) -> all that acting needs.
    act: (policy, memory, observation [O], reward []) -> (action [A] in [-1, 1], memory), without exploration. The
        reward is the task's (in mazes 0 at the goal and −1 elsewhere) of the step before, 0 at an episode's start.
    steps: in a block, of each optimiser in the order of the learner's fields.
    block: gradient steps of a block, F.
    memory: () -> what acting remembers at an episode's start; () if nothing.
    explore: (policy, observation [O], noise [A], scale) -> action [A] in [-1, 1], from standard normal noise; None if
        the method does not learn online. `scale` is `config.online.exploration_noise`.
    draw_for: (key, minibatches packed [F, B, D]) -> as `draw`, for minibatches from elsewhere; the key is consumed.
        None if the method does not learn online.
    """

    init: Callable[[Array], Any]
    draw: Callable[[Array, Data], Any]
    update: Callable[[Any, Any, Any, Any, Array], tuple[Any, Metrics]]
    policy: Callable[[Any, Any, Any], Params]
    act: Callable[[Params, Any, Array, Array], tuple[Array, Any]]
    steps: tuple[int, ...]
    block: int = 1
    memory: Callable[[], Any] = lambda: ()
    explore: Callable[[Params, Array, Array, Array], Array] | None = None
    draw_for: Callable[[Array, Array], Any] | None = None


class Stage(NamedTuple):
    """What is trained before the policies and shared by several members, such as SPOT's CVAE.

    init, draw and update are as an `Algorithm`'s, with what the stages before it came to as `shared`; metrics may be of
    any one shape.
    result: (learner, shared) -> what later stages and the policies get as `shared`.
    num_steps: gradient steps it is trained by.
    fields: the method's options that say what it comes to: another run's must agree for it to be taken over.
    """

    name: str
    num_steps: int
    init: Callable[[Array], Any]
    draw: Callable[[Array, Data], Any]
    update: Callable[[Any, Any, Any, Any, Array], tuple[Any, Metrics]]
    result: Callable[[Any, Any], Any]
    steps: tuple[int, ...]
    block: int = 1
    fields: tuple[str, ...] = ()


class Idle(NamedTuple):
    """Options that nothing reads while a condition holds."""

    when: Callable[[Any], bool]  # of the options
    because: str
    fields: tuple[str, ...]  # or groups of fields; a grid over what they give is idle, too


def no_stages(options: Any, observation_dim: int, action_dim: int) -> tuple[Stage, ...]:
    """Most methods train their policies alone."""
    del options, observation_dim, action_dim
    return ()


class Method(NamedTuple):
    """A method as a config names it.

    title: (its options) -> what tables and plots call it.
    hyperparameters: a NamedTuple type of the scalars that are traced, so that a grid may span them.
    fields: its options, `config.NAME.FIELD`, each with its default; those named as hyperparameters give their values.
        Some say how its data are prepared, see `build.prepare`; `schedule_steps`, the length of a schedule, is that of
        the offline phase where it is None. A run that goes on online has none.
    metrics: its columns in metrics.csv, in the order in which they come, the stages' first.
    more_metrics: (its options) -> columns that come only with some of them.
    make: (its options, observation_dim, action_dim) -> its `Algorithm`.
    stages: (the same) -> what is trained first.
    presets: options that differ for a family of tasks ('locomotion', 'maze') or for a task ('hopper-medium',
        'antmaze-umaze', 'pointmaze'), the latter last.
    shared_by: hyperparameters that the stages read: members that agree on them and on the seed share the stages.
    samples: it explores by samples of its policy: `config.online.exploration_noise` is not read.
    cooled: hyperparameters that fall while fine-tuning, as `config.online.cooling_steps` says.
    paths: of those hyperparameters that are not called as the options that give their values, these options.
    policy_fields: options that say what its learners look like: another run's must agree to be gone on from.
    go_on: (another run's options, this one's, its learners, its stages' results) -> both as this run has them, to be
        gone on from: of its stages, those that this run has. Raises ValueError if they lack what its options ask for.
    restore: the option that names the run whose stages are taken, if there are any.
    fresh_fields: options that nothing reads when learners and stages are another run's.
    idle: which of its options have no effect, and when.
    density: (its options, observation_dim, action_dim, learner, shared, hypers) -> a member's `density.Density`, if it
        has learned one.
    at_top: its options are at the top of the config's tree, not under its name.
    returns_discount: (its options) -> the discount of `Data.returns_to_go`. Below 1, an episode that was cut off goes
        on with its last reward for ever, and a terminal row in its midst ends it.
    """

    title: Callable[[Any], str]
    hyperparameters: Any
    fields: Mapping[str, Field]
    metrics: tuple[str, ...]
    make: Callable[[Any, int, int], Algorithm]
    stages: Callable[[Any, int, int], tuple[Stage, ...]] = no_stages
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    shared_by: tuple[str, ...] = ()
    samples: bool = False
    cooled: tuple[str, ...] = ()
    paths: Mapping[str, str] = MappingProxyType({})
    policy_fields: tuple[str, ...] = ()
    go_on: Callable[[Any, Any, Any, Any], tuple[Any, Any]] = lambda theirs, ours, learner, shared: (learner, shared)
    restore: str | None = None
    fresh_fields: tuple[str, ...] = ()
    idle: tuple[Idle, ...] = ()
    density: Callable[[Any, int, int, Any, Any, Any], Any] | None = None
    at_top: bool = False
    returns_discount: Callable[[Any], float] = lambda options: 1.0
    more_metrics: Callable[[Any], tuple[str, ...]] = lambda options: ()
