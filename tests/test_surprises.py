"""Ctrl-C while a command starts, mistakes of Python callers, pipes in place of files, children of environments."""

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
from tiny import tiny

import spot_jax
from spot_jax.acting.env_pool import EnvPool
from spot_jax.data.load import open_minari
from spot_jax.run import config_files
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
    for observations, actions in (((5, 3), (5, 2)), ((5, 4), (5, 3)), ((5, 4), (4, 2)), ((4,), (1, 2))):
        with pytest.raises(InputError, match=r'the density takes \[..., 4\] and \[..., 2\]'):
            log_prob(np.zeros(observations), np.zeros(actions))


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
