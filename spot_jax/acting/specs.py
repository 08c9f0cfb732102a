"""Which environment a dataset may name: a registered one, so that data cannot run what they say.

A dataset's metadata name an entry point, a module and a function of it, and gymnasium would call it. They come from
anywhere; here they choose among the environments that the user's own installation registers.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import warnings
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from spot_jax.system.errors import InputError, first_line

MAX_EPISODE_STEPS = 1000  # where an environment has no time limit: what most of gymnasium's have
LONGEST = 100_000  # steps; data of episodes that go on are collected under limits such as 1 000 000, which are none
TRUST = (
    'if you trust the dataset, --config.evaluation.trust_environment=True (of evaluate and plot --trust-environment) '
    'makes it as recorded'
)

# Wrappers that show, collect or film what an environment renders: they are left out, as its render_mode is.
_WINDOWS = {f'gymnasium.wrappers.rendering:{n}' for n in ('HumanRendering', 'RenderCollection', 'RecordVideo')}
# What kwargs may say besides numbers: a choice such as 'sparse' or 'light switch', never a path, a module or a command.
_WORD = re.compile(r'[\w -]{0,64}')


def import_mazes() -> None:
    """Registers gymnasium-robotics' mazes, without its notices about environments of other kinds."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        import gymnasium_robotics

        gym.register_envs(gymnasium_robotics)


def _registered(environment_id: str) -> EnvSpec:
    """The registry's own spec; unlike `gym.spec`, this imports no module that an id such as `module:Name-v0` names."""
    if environment_id not in gym.registry:
        import_mazes()
    if environment_id not in gym.registry:
        raise InputError(
            f"the dataset's environment {environment_id!r} is not registered: "
            f'import what registers it, which for a training is what its config file imports; {TRUST}'
        )
    return gym.registry[environment_id]


def _name(entry_point: Any) -> Any:
    """A registered class or function as a dataset would record it."""
    if callable(entry_point):
        return f'{entry_point.__module__}:{getattr(entry_point, "__qualname__", "?")}'
    return entry_point


def _has_moved(theirs: Any, ours: Any) -> bool:
    """Whether both are a function of this package, of one name: modules have moved since the dataset was recorded."""
    names = [entry_point.split(':') for entry_point in (theirs, ours) if isinstance(entry_point, str)]
    return len(names) == 2 and all(name[0].startswith('spot_jax.') for name in names) and names[0][1:] == names[1][1:]


def _is_plain(value: Any, known: tuple[Any, ...]) -> bool:
    """Whether an argument is one of the `known` values, or made of numbers and of words that name nothing to open."""
    if value is None or isinstance(value, bool | int | float) or any(value == k for k in known if isinstance(k, str)):
        return True
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v, ()) for k, v in value.items())
    return isinstance(value, list | tuple) and all(_is_plain(v, ()) for v in value)


def _check_kwargs(recorded: dict[str, Any], registered: EnvSpec) -> None:
    """Raises InputError unless the registered entry point takes the recorded arguments and all of them are plain."""
    try:
        creator = registered.entry_point
        parameters = inspect.signature(load_env_creator(creator) if isinstance(creator, str) else creator).parameters
    except Exception as error:  # importing an environment can raise anything
        reason = first_line(error)
        raise InputError(f"cannot make the dataset's environment {registered.id}: {reason}") from error
    takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, value in recorded.items():
        if name not in parameters and name not in registered.kwargs and not takes_all:
            raise InputError(f'{registered.id} takes no argument {name!r}, which the dataset records')
        known = (registered.kwargs.get(name), parameters[name].default if name in parameters else None)
        if not _is_plain(value, known):
            text = repr(value) if len(repr(value)) < 60 else f'{repr(value)[:57]}...'
            raise InputError(
                f'the dataset records {name}={text} for {registered.id}: only numbers and plain words are taken, '
                f'no paths; {TRUST}'
            )


def _time_limit(steps: Any, environment_id: str) -> int | None:
    """A recorded number of steps; None if there is none, or one so large that it ends nothing."""
    if steps is None:
        return None
    if isinstance(steps, bool) or not isinstance(steps, int | float) or steps != steps or steps < 1:
        raise InputError(f'the dataset records max_episode_steps={steps!r} for {environment_id}: give at least 1')
    return int(steps) if steps <= LONGEST else None


def approved(recorded: EnvSpec, trusted: bool = False) -> EnvSpec:
    """What may be made for the spec that a dataset records: nothing of it has been imported or called before.

    The registered environment of its id, with the recorded arguments, time limit and, for comparison, wrappers; or,
    `trusted`, the recorded one. Neither opens a window. Its `max_episode_steps` is None if nothing ends its episodes.
    Raises InputError if it is not registered, or if anything that the dataset records could make it another one.
    """
    if not isinstance(recorded.kwargs, dict):
        raise InputError(f'the dataset records arguments of {recorded.id} that are no dict')
    kwargs = {name: value for name, value in recorded.kwargs.items() if name != 'render_mode'}
    wrappers = tuple(w for w in recorded.additional_wrappers if str(w.entry_point) not in _WINDOWS)
    limit = _time_limit(recorded.max_episode_steps, recorded.id)
    if trusted:
        return dataclasses.replace(
            recorded, kwargs=kwargs, additional_wrappers=wrappers, max_episode_steps=limit, disable_env_checker=True
        )
    registered = _registered(recorded.id)
    for what, theirs, ours in (
        ('entry point', recorded.entry_point, _name(registered.entry_point)),
        ('vector entry point', recorded.vector_entry_point, _name(registered.vector_entry_point)),
    ):
        if theirs not in (None, ours) and not _has_moved(theirs, ours):
            raise InputError(
                f'the dataset records the {what} {theirs!r} for {recorded.id}, which has {ours!r}; {TRUST}'
            )
    _check_kwargs(kwargs, registered)
    return dataclasses.replace(
        registered,
        kwargs=registered.kwargs | kwargs,
        additional_wrappers=wrappers,
        max_episode_steps=limit or _time_limit(registered.max_episode_steps, recorded.id),
        disable_env_checker=True,  # what environments answer is checked at every step
    )


def make(spec: EnvSpec, trusted: bool = False, **kwargs: Any) -> gym.Env:
    """Makes what `approved` gave, with more arguments; raises InputError if the dataset had it wrapped."""
    if trusted:
        return gym.make(spec, **kwargs)
    env = gym.make(dataclasses.replace(spec, additional_wrappers=()), **kwargs)
    made = [wrapper.entry_point for wrapper in env.spec.additional_wrappers] if env.spec else []  # by its entry point
    recorded = [wrapper.entry_point for wrapper in spec.additional_wrappers]
    same = len(recorded) == len(made) and all(a == b or _has_moved(a, b) for a, b in zip(recorded, made, strict=True))
    if recorded and not same:
        env.close()
        names = ', '.join(str(w.name) for w in spec.additional_wrappers)
        raise InputError(
            f'the dataset records wrappers of {spec.id} ({names}): they are not made of what a dataset says; {TRUST}'
        )
    return env
