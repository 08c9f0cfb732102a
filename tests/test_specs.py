"""A dataset names its environment; it does not say what is run."""

import dataclasses
import json

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path
from tiny import ID as MAZE
from tiny import tiny

from spot_jax import evaluate, plot
from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS
from spot_jax.data.load import open_minari
from spot_jax.datasets.__main__ import main as datasets
from spot_jax.recipes import generate
from spot_jax.run import training
from spot_jax.run.policy import Scaling
from spot_jax.system.errors import InputError

TASK = TASKS['locomotion']
ID = 'toy/hostile-v0'


class Strict(gym.Env):
    """It takes no action beyond its bounds, and says in `made` how it was made."""

    made: list = []  # noqa: RUF012 (of all of them)
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    metadata = {'render_modes': ['human', 'rgb_array']}  # noqa: RUF012

    def __init__(self, reward='dense', size=1, path='here/default.xml', render_mode=None, dtype='float32'):
        Strict.made.append((reward, size, path, render_mode))
        self.action_space = Box(np.array([-1.9, 0.1], dtype), np.array([0.3, 0.7], dtype), dtype=np.dtype(dtype))

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(3, np.float32), 1.0, False, False, {}


class Wrapped(gym.Wrapper):
    """What a dataset may have been collected through."""


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(Strict, 'made', [])
    name = f'{__name__}:Strict'
    gym.register('toy/Strict-v0', name, max_episode_steps=7)
    gym.register('toy/Endless-v0', name, kwargs={'size': 2})
    yield gym.registry['toy/Strict-v0']
    del gym.registry['toy/Strict-v0'], gym.registry['toy/Endless-v0']


def hostile(mark):
    """A spec that leaves the file `mark` behind if it is made."""
    return EnvSpec('Hostile-v0', 'os:system', kwargs={'command': f'touch {mark}'})


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Makes the Minari dataset `ID` with a spec."""
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))

    def make(spec, **changes):
        rng = np.random.default_rng(0)
        episode = EpisodeBuffer(
            observations=rng.normal(size=(41, 3)).astype(np.float32),
            actions=rng.uniform([-1.9, 0.1], [0.3, 0.7], (40, 2)).astype(np.float32),
            rewards=rng.normal(size=40),
            terminations=np.zeros(40, bool),
            truncations=np.arange(40) == 39,
        )
        low, high = np.array([-1.9, 0.1], np.float32), np.array([0.3, 0.7], np.float32)
        spaces = {'observation_space': Strict.observation_space, 'action_space': Box(low, high)}
        minari.create_dataset_from_buffers(ID, [episode], **spaces)
        path = get_dataset_path(ID) / 'data' / 'metadata.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | {'env_spec': spec.to_json()} | changes))

    return make


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'id': 'toy/Unknown-v0'}, 'not registered'),
        ({'id': 'os:system-v0'}, 'not registered'),
        ({'entry_point': 'os:system'}, "entry point 'os:system'"),
        ({'vector_entry_point': 'os:system'}, "vector entry point 'os:system'"),
        ({'additional_wrappers': (WrapperSpec('W', 'os:system', {}),)}, r'wrappers of toy/Strict-v0 \(W\)'),
        ({'kwargs': {'command': 'x'}}, "takes no argument 'command'"),
        ({'kwargs': {'path': '/etc/passwd'}}, 'only numbers and plain words'),
        ({'kwargs': {'path': 'other.xml'}}, 'only numbers and plain words'),
        ({'kwargs': {'reward': {'a': ['os:system']}}}, 'only numbers and plain words'),
        ({'kwargs': ['x']}, 'no dict'),
        ({'max_episode_steps': 'x'}, "max_episode_steps='x'"),
        ({'max_episode_steps': 0}, 'at least 1'),
    ],
)
def test_only_what_is_registered_is_made(registered, changes, words):
    """With plain arguments; refused in one line, before anything is made."""
    spec = EnvSpec(**({'id': registered.id, 'entry_point': registered.entry_point} | changes))
    with pytest.raises(InputError, match=words) as error:
        environments.make(spec, TASK)
    assert '\n' not in str(error.value)
    assert Strict.made == [] or 'additional_wrappers' in changes


def test_arguments_and_time_limit_are_the_recorded_ones(registered, capsys):
    spec = dataclasses.replace(
        registered,
        max_episode_steps=3.0,  # from JSON
        kwargs={'reward': 'light switch', 'size': 4, 'path': 'here/default.xml', 'render_mode': 'human'},
        additional_wrappers=(WrapperSpec('HumanRendering', 'gymnasium.wrappers.rendering:HumanRendering', {}),),
    )
    for options in ({}, {'trusted': True}):
        env = environments.make(spec, TASK, **options)
        assert Strict.made.pop() == ('light switch', 4, 'here/default.xml', None)  # and no window
        env.reset(seed=0)
        ends = [env.step(np.array([0, 0.5], np.float32))[3] for _ in range(3)]
        assert ends == [False, False, True]
    assert capsys.readouterr().err == ''
    none = dataclasses.replace(registered, max_episode_steps=None)
    assert environments.make(none, TASK).spec.max_episode_steps == 7  # the registered one
    too_long = dataclasses.replace(registered, max_episode_steps=10**6)
    for endless, steps in ((gym.registry['toy/Endless-v0'], 5), (too_long, 7)):
        assert environments.make(endless, TASK, max_episode_steps=5).spec.max_episode_steps == steps
    assert 'toy/Endless-v0 has no time limit: its episodes are cut after 5 steps' in capsys.readouterr().err


def test_names_of_this_packages_modules_may_have_changed_since():
    registered = gym.registry['spot_jax/PointMaze-UMaze-v0']
    older = WrapperSpec('PinnedGoal', 'spot_jax.environments:PinnedGoal', None)
    kwargs = {'name': 'UMaze'}
    spec = EnvSpec(registered.id, 'spot_jax.environments:point_maze', kwargs=kwargs, additional_wrappers=(older,))
    environments.make(spec, TASKS['pointmaze']).close()
    for entry_point in ('spot_jax.environments:ant_maze', 'spot_jax_2.environments:point_maze'):
        with pytest.raises(InputError, match='records the entry point'):
            environments.make(EnvSpec(registered.id, entry_point, kwargs=kwargs), TASKS['pointmaze'])
    other = WrapperSpec('PinnedGoal', 'other.environments:PinnedGoal', None)
    with pytest.raises(InputError, match='records wrappers'):
        environments.make(
            EnvSpec(registered.id, registered.entry_point, kwargs=kwargs, additional_wrappers=(other,)),
            TASKS['pointmaze'],
        )


def test_what_an_entry_point_wraps_itself_is_no_wrapper_of_the_dataset():
    spec = gym.make('spot_jax/PointMaze-UMaze-v0').spec
    assert spec.additional_wrappers
    environments.make(EnvSpec.from_json(spec.to_json()), TASKS['pointmaze']).close()


def test_trusted_is_made_as_recorded(registered):
    spec = EnvSpec(
        'toy/Mine-v0', f'{__name__}:Strict', additional_wrappers=(WrapperSpec('W', f'{__name__}:Wrapped', {}),)
    )
    with pytest.raises(InputError, match='not registered'):
        environments.make(spec, TASK)
    env = environments.make(spec, TASK, trusted=True)
    assert env.has_wrapper_attr('observation_space')
    assert 'Wrapped' in str(env)


def test_no_command_runs_a_dataset_that_names_one(dataset, tmp_path, capsys):
    """Trained on without it, evaluated, shown, listed; nor by Minari, which would ask it for its spaces."""
    mark = tmp_path / 'mark'
    dataset(hostile(mark), eval_env_spec=hostile(mark).to_json())
    options = {'dataset_id': ID, 'task': 'locomotion', 'regularizer.name': 'none', 'offline.steps': 10}
    assert training.run(tiny(**options, **{'evaluation.episodes': 0}), tmp_path / 'run') == 0
    for more in ({}, {'evaluation.episodes': 0, 'online.steps': 10}):
        with pytest.raises(InputError, match='not registered'):
            training.run(tiny(**options, **more), tmp_path / 'other')
    assert not (tmp_path / 'other').exists()
    assert evaluate.main([str(tmp_path / 'run')]) == 2
    assert datasets(['show', ID, f'--plot={tmp_path / "x.png"}']) == 0
    assert datasets(['list']) == 0
    assert 'Hostile-v0' in capsys.readouterr().out
    path = get_dataset_path(ID) / 'data' / 'metadata.json'
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in raw.items() if k != 'action_space'}))
    with pytest.raises(InputError, match='lacks observation_space or action_space'):
        open_minari(ID)
    assert datasets(['list']) == 0
    assert not mark.exists()


def test_unmakeable_is_not_made_where_none_is_needed(dataset, registered, tmp_path):
    dataset(EnvSpec('toy/Strict-v0', registered.entry_point, additional_wrappers=(WrapperSpec('W', 'a:W', None),)))
    options = {'dataset_id': ID, 'task': 'locomotion', 'regularizer.name': 'none', 'offline.steps': 10}
    assert training.run(tiny(**options, **{'evaluation.episodes': 0}), tmp_path) == 0
    assert Strict.made == []


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_saturated_actions_stay_in_strict_bounds(registered, dtype):
    spec = dataclasses.replace(registered, kwargs={'dtype': dtype})
    env = environments.make(spec, TASK)
    env.reset(seed=0)
    space = env.action_space
    scaling = Scaling(np.zeros(3), np.ones(3), space.low.astype(np.float32), space.high.astype(np.float32))
    for unit in (-1, 1, 0.3):
        actions = scaling.bounded(np.full((5, 2), unit, np.float32))
        assert (actions >= scaling.action_low).all()
        assert (actions <= scaling.action_high).all()
        env.step(actions[0])  # asserts


def test_evaluate_and_plot_make_what_they_are_told_to_trust(tmp_path, monkeypatch, capsys):
    """What a run was told to trust while it trained is not trusted after it."""
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))
    generate(MAZE, 500)
    for path in get_dataset_path(MAZE).rglob('metadata.json'):
        path.write_text(path.read_text().replace('spot_jax/PointMaze-UMaze-v0', 'toy/Mine-v0'))
    run, options = tmp_path / 'run', {'regularizer.name': 'none', 'offline.steps': 10, 'evaluation.episodes': 1}
    with pytest.raises(InputError, match="'toy/Mine-v0' is not registered"):
        training.run(tiny(**options), run)
    assert training.run(tiny(**options, **{'evaluation.trust_environment': True}), run) == 0
    commands = [evaluate.main, [str(run), '--episodes=1']], [plot.main, [str(run), '--episodes=1', '--overwrite']]
    for trust, statuses in ([], [2, 0]), (['--trust-environment'], [0, 0]):
        capsys.readouterr()
        assert [main(line + trust) for main, line in commands] == statuses
        assert capsys.readouterr().err.count("'toy/Mine-v0' is not registered") == (0 if trust else 2)
        assert (run / 'plots' / 'rollouts.png').exists() == bool(trust)
