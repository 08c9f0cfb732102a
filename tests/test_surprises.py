"""Ctrl-C while a command starts, mistakes of Python callers, pipes in place of files, children of environments."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from ml_collections import FrozenConfigDict
from moody import Moody
from tiny import ID, tiny

import spot_jax
from spot_jax import evaluate, recipes
from spot_jax.acting.env_pool import EnvPool
from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import TASKS, Reference
from spot_jax.data.load import open_minari
from spot_jax.run import config_files, effects, playing
from spot_jax.run.config import members
from spot_jax.run.finetuning import Collector
from spot_jax.system.errors import InputError


@pytest.mark.parametrize('module', ['spot_jax.main', 'spot_jax.datasets'])
def test_ctrl_c_while_a_command_starts(module):
    command = [sys.executable, '-m', module, 'list']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        maps = Path(f'/proc/{process.pid}/maps')
        while 'numpy' not in maps.read_text() and process.poll() is None:  # in the midst of its imports
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ('', 'stopped\n')
    assert process.returncode == 130


def test_runs_from_python_take_a_config_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        ((tiny().to_dict(), 'run'), 'not a dict'),
        ((None, 'run'), 'not a NoneType'),
        ((tiny(), ''), "workdir='': name a folder"),
        ((tiny(), None), 'workdir=None: name a folder'),
    ):
        with pytest.raises(InputError, match=words):
            spot_jax.train(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_policies_and_densities_take_any_leading_axes_and_refuse_other_sizes(finished):
    act, log_prob = spot_jax.load_policy(finished), spot_jax.load_density(finished)
    assert act(np.zeros((0, 4))).shape == (0, 2)
    assert act(np.zeros(4)).shape == (2,)
    for member in (0.5, '0', True, -1, 2):
        with pytest.raises(InputError, match='no member'):
            spot_jax.load_policy(finished, member=member)
        with pytest.raises(InputError, match='no member'):
            spot_jax.load_density(finished, member=member)
    assert spot_jax.load_policy(finished, member=np.argmax([0.0, 1.0]))(np.zeros(4)).shape == (2,)
    assert log_prob(np.zeros((5, 4)), np.zeros((5, 2))).shape == (5,)
    assert log_prob(np.zeros(4), np.zeros(2)).shape == ()
    assert log_prob(np.zeros((0, 4)), np.zeros((0, 2))).shape == (0,)
    for observations, actions in (((5, 3), (5, 2)), ((5, 4), (5, 3)), ((5, 4), (4, 2)), ((4,), (1, 2))):
        with pytest.raises(InputError, match=r'of shape .*: expected'):
            log_prob(np.zeros(observations), np.zeros(actions))


def test_what_policies_and_densities_cannot_take_is_one_line(finished):
    act, log_prob = spot_jax.load_policy(finished), spot_jax.load_density(finished)
    one, nan = np.zeros(4), np.array([0, np.nan, 0, 0])
    for wrong in (
        nan,
        [1e39, 0, 0, 0],
        ['a', 'b', 'c', 'd'],
        {'observation': np.zeros(3)},
        {'x': 1},
        None,
        np.zeros(5),
    ):
        with pytest.raises(InputError, match=r'^observations .*expected finite numbers \[..., 4\], or the dicts'):
            act(wrong)
        with pytest.raises(InputError, match=r'^observations '):
            log_prob(wrong, np.zeros(2))
    for wrong in (np.full(2, 1.1), [np.nan, 0], 'ab', [1, 'x']):
        with pytest.raises(InputError, match='actions'):
            log_prob(one, wrong)
    for changes in ({'rewards': np.zeros(3)}, {'starts': [True, False]}, {'rewards': 'x'}):
        with pytest.raises(InputError, match='rewards and starts: expected'):
            act(np.zeros((1, 4)), **changes)
    for load in (spot_jax.load_policy, spot_jax.load_density):
        for folder in (None, 5, ['x'], '', ' '):
            with pytest.raises(InputError, match='name a folder'):
                load(folder)
    for changes in ({'num_samples': 0}, {'num_samples': 1.5}, {'num_samples': True}, {'seed': -1}, {'seed': 'a'}):
        with pytest.raises(InputError, match=f'{next(iter(changes))}=.*must be a whole number'):
            spot_jax.load_density(finished, **changes)
    with pytest.raises(InputError, match='no estimator'):
        spot_jax.load_density(finished, estimator=[1])
    for text in (None, Path('experiments/antmaze.py')):
        with pytest.raises(InputError, match='names no config'):
            spot_jax.read_config(text)


def test_mazes_give_dicts_and_policies_take_them(finished):
    act, log_prob = spot_jax.load_policy(finished), spot_jax.load_density(finished)
    env = gym.make('spot_jax/PointMaze-UMaze-v0')
    seen, _ = env.reset(seed=0)
    env.close()
    np.testing.assert_array_equal(act(seen), act(seen['observation']))
    assert log_prob(seen, np.zeros(2)) == log_prob(seen['observation'], np.zeros(2))
    many = {name: np.stack([value, value]) for name, value in seen.items()}
    np.testing.assert_allclose(act(many), np.stack([act(seen)] * 2), rtol=1e-6)


def test_a_pipe_in_place_of_metadata_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    (tmp_path / 'ab' / 'pipe-v0' / 'data').mkdir(parents=True)
    os.mkfifo(tmp_path / 'ab' / 'pipe-v0' / 'data' / 'metadata.json')
    with pytest.raises(InputError, match='cannot open the dataset'):
        open_minari('ab/pipe-v0')


def test_workers_find_what_a_config_file_imports(tmp_path, monkeypatch):
    """Worker processes start with their parent's path."""
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'mine.py').write_text('from spot_jax import default_config\nget_config = default_config\n')
    config_files.load(str(tmp_path / 'mine.py'))
    config_files.load(str(tmp_path / 'mine.py'))
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)  # else a neighbour could hide a library of its name


class Parent(gym.Env):
    """Starts a process of its own that outlives it."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, path):
        self._path = path

    def reset(self, *, seed=None, options=None):
        self._path.write_text(str(subprocess.Popen(['sleep', '600']).pid))
        return np.zeros(1, np.float32), {}


def test_what_an_environment_started_ends_with_its_worker(tmp_path):
    pool = EnvPool(partial(Parent, tmp_path / 'pid'), 1, 1)
    pool.reset(np.array([0]), np.array([0]))
    pid = int((tmp_path / 'pid').read_text())
    os.kill(pid, 0)  # it runs
    pool.close()
    for _ in range(50):
        try:
            state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
        except FileNotFoundError:
            return
        if state == 'Z':  # it has ended, and nobody has asked how
            return
        time.sleep(0.1)
    pytest.fail('it still runs')


UNGUARDED = """
import spot_jax
config = spot_jax.read_config('{root}/experiments/pointmaze.py')
try:
    spot_jax.train(config, 'run')
except spot_jax.InputError as error:
    print(error)
"""


def test_a_script_without_a_main_guard_is_told_before_it_trains(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(UNGUARDED.format(root=Path(__file__).parents[1]))
    environment = os.environ | {'MINARI_DATASETS_PATH': str(tmp_path / 'data')}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f'{script} runs again in each worker process: put what it does below')
    assert [path.name for path in tmp_path.iterdir()] == ['script.py']
    for command, text in (([sys.executable, '-m', 'script'], None), ([sys.executable, '-'], script.read_text())):
        options = {'cwd': tmp_path, 'env': environment, 'capture_output': True, 'text': True, 'input': text}
        done = subprocess.run(command, check=False, **options)
        words = 'cannot import <stdin>: run a file' if text else 'runs again in each worker process'
        assert words in done.stdout
        assert not (tmp_path / 'run').exists()


def test_a_grid_that_nothing_reads_makes_no_members(tmp_path):
    grid = {'grid.regularizer_weight': (0.1, 0.2)}
    words = 'would not differ: nothing reads grid.regularizer_weight .regularizer.name is none.'
    with pytest.raises(InputError, match=words):
        spot_jax.train(tiny(**grid, **{'regularizer.name': 'none'}), tmp_path / 'run')
    effects.require_that_grids_are_read(tiny(**grid))
    effects.require_that_grids_are_read(tiny(method='bc', **grid))  # another method's is left out


def test_names_of_ours_are_not_looked_for_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    for function in (recipes.generate, recipes.provide):
        with pytest.raises(
            InputError, match=r"no recipe for 'spot_jax/antmaze/umaz-v2': did you mean spot_jax/antmaze/"
        ):
            function('spot_jax/antmaze/umaz-v2')
    recipes.provide('toy/set-v0')
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_played_where_it_was_evaluated(finished, tmp_path, monkeypatch, capsys):
    """Without its data, too; and not where data say that took their place."""
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'none'))
    command = [str(finished), '--episodes=2']
    assert evaluate.main(command) == 0
    printed = capsys.readouterr()
    assert (printed.out.count('member'), printed.err) == (2, '')
    assert not (tmp_path / 'none').exists()
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'other'))
    recipes.generate(ID, 300)
    for path in (tmp_path / 'other').rglob('metadata.json'):
        path.write_text(path.read_text().replace('PointMaze-UMaze', 'PointMaze-Large'))
    assert evaluate.main(command) == 2
    words = 'their spot_jax/PointMaze-Large-v0 is not the toy/Nearby-v0 that it was evaluated in'
    assert words in capsys.readouterr().err


def test_the_environment_of_a_runs_results_is_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'none'))
    spec = EnvSpec('Pendulum-v1', 'mine:Pendulum', max_episode_steps=50, kwargs={'g': 2.0})
    returns = {'random': 1.0, 'expert': 2.0, 'source': 'here'}

    def found(**changes):
        results = {'environment': json.loads(spec.to_json()), 'reference_returns': returns} | changes
        (tmp_path / 'results.json').write_text(json.dumps(results))
        return playing.environment_of(tmp_path, 'spot_jax/antmaze/umaze-v0', TASKS['locomotion'])

    assert found() == (spec, Reference(1.0, 2.0, 'here'))
    assert found(reference_returns=None) == (spec, None)
    for changes in (
        *({'reference_returns': returns | {'expert': x}} for x in (1.0, 'a', None, float('nan'))),
        *({'reference_returns': x} for x in ([1, 2], {'foo': 1}, 'x')),
        *({'environment': x} for x in ([], {}, 'x', 5)),
    ):
        with pytest.raises(InputError, match=r'results.json is damaged \(.*\): put it back'):
            found(**changes)
    with pytest.raises(InputError, match='is made no more'):  # of an older run, which does not tell
        found(environment=None)


def test_a_frozen_config_trains(data, finished, tmp_path):
    del data
    changes = {'online.steps': 4, 'online.restore': str(finished), 'evaluation.episodes': 0}
    assert spot_jax.train(FrozenConfigDict(tiny(**changes)), tmp_path / 'run') == 0


def test_actions_of_a_member_that_has_diverged_are_within_their_bounds():
    scaling = Scaling(np.zeros(1), np.ones(1), np.array([-2.0, 0.0]), np.array([2.0, 1.0]))
    np.testing.assert_array_equal(scaling.bounded(np.array([[np.nan, np.inf], [-np.inf, 9.0]])), [[0, 1], [-2, 1]])


def test_a_diverged_members_transitions_are_numbers():
    """Else no checkpoint of the whole population could be read again."""
    scaling = Scaling(np.zeros(2), np.ones(2), -np.ones(1), np.ones(1))
    everyone = members(tiny(seeds=(0, 1, 2)))
    collector = Collector(partial(Moody, 'nowhere', None), everyone, TASKS['locomotion'], scaling, 0)
    rows = collector.step(np.array([[np.nan], [-np.inf], [0.5]], np.float32), 1)
    collector.close()
    np.testing.assert_array_equal(rows[:, 2], [0, -1, 0.5])
    assert np.isfinite(rows).all()
