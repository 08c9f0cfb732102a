"""HDF5 files are read only if they hold all that they name; a failing disk ends a dataset's making in one line."""

import errno
import os
import resource

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from spot_jax.acting.tasks import TASKS
from spot_jax.data import hdf5
from spot_jax.data.load import load
from spot_jax.datasets.__main__ import main
from spot_jax.system.errors import InputError

STEPS = 6


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    path = tmp_path / 'store'
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(path))
    return path


@pytest.fixture
def secret(tmp_path):
    """A file of the user's that no dataset is to bring in."""
    path = tmp_path / 'secret.hdf5'
    with h5py.File(path, 'w') as file:
        file['inner/numbers'] = np.arange(float(STEPS))
    return path


def external_link(group, name, secret):
    group[name] = h5py.ExternalLink(secret, '/inner/numbers')


def soft_link_into_an_external_one(group, name, secret):
    group.file['elsewhere'] = h5py.ExternalLink(secret, '/')
    group[name] = h5py.SoftLink('/elsewhere/inner/numbers')


def external_storage(group, name, secret):
    group.create_dataset(name, (STEPS,), 'u1', external=[(str(secret), 0, STEPS)])


def virtual(group, name, secret):
    layout = h5py.VirtualLayout((STEPS,), 'f8')
    layout[:] = h5py.VirtualSource(str(secret), 'inner/numbers', (STEPS,))
    group.create_virtual_dataset(name, layout)


def virtual_of_the_same_file(group, name, secret):
    del secret
    group.file['own'] = np.zeros(STEPS)
    layout = h5py.VirtualLayout((STEPS,), 'f8')
    layout[:] = h5py.VirtualSource('.', 'own', (STEPS,))
    group.create_virtual_dataset(name, layout)


def deep_inside(group, name, secret):
    group[name] = np.zeros(STEPS)
    external_storage(group.create_group('a/b/c'), 'd', secret)


def in_a_cycle(group, name, secret):
    group[name] = np.zeros(STEPS)
    group.file['round'] = group.file['/']
    external_link(group.create_group('round'), 'x', secret)


FOREIGN = [
    *(external_link, soft_link_into_an_external_one, external_storage, virtual, virtual_of_the_same_file),
    *(deep_inside, in_a_cycle),
]


@pytest.mark.parametrize('make', FOREIGN)
def test_what_is_kept_in_other_files_is_refused(tmp_path, store, secret, capsys, make):
    path = tmp_path / 'flat.hdf5'
    with h5py.File(path, 'w') as file:
        file['observations'], file['actions'] = np.zeros((STEPS, 2)), np.zeros((STEPS, 1))
        file['terminals'] = np.zeros(STEPS)
        make(file if make is not in_a_cycle else file.create_group('outer'), 'rewards', str(secret))
        if make is in_a_cycle:
            file['rewards'] = np.zeros(STEPS)
    assert main(['import-d4rl', str(path), '--id=toy/set-v0']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'only files that hold all their data are read' in error
    assert not store.exists() or not list(store.iterdir())


@pytest.mark.parametrize('make', FOREIGN)
def test_also_in_a_dataset_of_minari(store, secret, capsys, make):
    minari_set()
    with h5py.File(store / 'toy/set-v0/data/main_data.hdf5', 'r+') as file:
        del file['episode_0/rewards']
        make(file['episode_0'], 'rewards', str(secret))
    with pytest.raises(InputError, match='only files that hold all their data are read'):
        load('toy/set-v0', TASKS['locomotion'])
    with pytest.raises(InputError, match='only files that hold all their data are read'):
        load(minari.load_dataset('toy/set-v0'), TASKS['locomotion'])
    assert main(['show', 'toy/set-v0']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_links_within_the_file_are_followed(tmp_path):
    path = tmp_path / 'flat.hdf5'
    with h5py.File(path, 'w') as file:
        file['observations'], file['actions'] = np.zeros((STEPS, 2)), np.zeros((STEPS, 1))
        file['there'] = np.arange(float(STEPS))
        file['rewards'] = h5py.SoftLink('/there')
        file['terminals'] = np.arange(STEPS) == STEPS - 1
        file['infos/round'] = file['/']
    assert main(['import-d4rl', str(path), '--id=toy/set-v0']) == 0
    (episode,) = minari.load_dataset('toy/set-v0').iterate_episodes()
    np.testing.assert_array_equal(episode.rewards, np.arange(STEPS))


def episode(length=STEPS, **changes):
    arrays = {
        'observations': np.arange(2.0 * (length + 1)).reshape(-1, 2),
        'actions': np.zeros((length, 1), np.float32),
        'rewards': np.arange(float(length)),
        'terminations': np.arange(length) == length - 1,
        'truncations': np.zeros(length, bool),
    }
    return EpisodeBuffer(**arrays | changes)


def minari_set():
    box = gym.spaces.Box(-1, 1, (2,))
    minari.create_dataset_from_buffers('toy/set-v0', [episode()], observation_space=box, action_space=box)


def new_storage(path):
    spaces = {name: gym.spaces.Box(-np.inf, np.inf, (2,)) for name in ('observation_space', 'action_space')}
    return MinariStorage.new(path, **spaces)


def contents(storage):
    """All that a storage's file holds, the episodes in their order."""
    found = []

    def note(name, item):
        data = (item.dtype, item.maxshape, item[()].tolist()) if isinstance(item, h5py.Dataset) else list(item)
        found.append((name, sorted(item.attrs.items()), data))

    with h5py.File(storage.data_path / 'main_data.hdf5') as file:
        file.visititems(note)
        return list(file), sorted(found)


def test_episodes_are_written_as_minari_writes_them(tmp_path):
    infos = {'goal': np.zeros((7, 2)), 'more': {'x': np.arange(7)}}
    episodes = [episode(), episode(3), episode(infos=infos)]
    theirs, ours = (new_storage(tmp_path / name) for name in ('theirs', 'ours'))
    theirs.update_episodes(episodes)
    hdf5.write_episodes(ours, iter(episodes))
    assert theirs.metadata == ours.metadata
    assert contents(theirs) == contents(ours)
    ours.update_episodes([episode()])
    assert ours.total_steps == 21


@pytest.mark.parametrize('room', [0, 3000, 50_000])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch, room, capfd):
    left = [room]
    pwrite = os.pwrite

    def write(fd, data, offset):
        count = min(len(data), left[0])
        if count == 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        left[0] -= count
        return pwrite(fd, data[:count], offset)

    monkeypatch.setattr(os, 'pwrite', write)
    played = []
    with pytest.raises(OSError, match='No space left on device') as caught:
        hdf5.write_episodes(new_storage(tmp_path / 'data'), (played.append(i) or episode(100) for i in range(1000)))
    assert caught.value.filename == str(tmp_path / 'data' / 'main_data.hdf5')
    assert len(played) < 100  # it stops there
    assert capfd.readouterr().err == ''
    monkeypatch.undo()
    hdf5.write_episodes(new_storage(tmp_path / 'more'), iter([episode()]))  # HDF5 works as before


def test_what_could_not_be_written_is_read_back(tmp_path, monkeypatch):
    file = hdf5._Unfailing(tmp_path / 'file')
    file.write(b'abcdef')
    monkeypatch.setattr(os, 'pwrite', lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, 'broken')))
    file.seek(4)
    file.write(b'XYZ')
    file.seek(6)
    file.write(b'+')
    file.seek(3)
    assert file.read(6) == b'dXY+\0\0'
    assert file.error.errno == errno.EIO
    assert (tmp_path / 'file').read_bytes() == b'abcdef'
    file.close()


def test_an_import_on_a_full_disk_leaves_nothing_and_works_later(tmp_path, store, capfd):
    path = tmp_path / 'flat.hdf5'
    with h5py.File(path, 'w') as file:
        file.create_dataset('observations', data=np.zeros((20_000, 2)), compression='gzip')
        file.create_dataset('actions', data=np.zeros((20_000, 1)), compression='gzip')
        file['rewards'], file['terminals'] = np.zeros(20_000, 'f4'), np.arange(20_000) % 100 == 99
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # a real failure of the system's
    try:
        assert main(['import-d4rl', str(path), '--id=toy/set-v0']) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capfd.readouterr().err
    assert error.count('\n') == 1
    assert error.startswith('error: cannot write ')
    assert 'main_data.hdf5: File too large' in error
    assert list(store.iterdir()) == []
    assert main(['import-d4rl', str(path), '--id=toy/set-v0']) == 0


def test_ctrl_c_does_not_interrupt_hdf5(tmp_path):
    def episodes():
        yield episode()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdf5.write_episodes(new_storage(tmp_path / 'data'), episodes())
    with h5py.File(tmp_path / 'data' / 'main_data.hdf5') as file:  # it was closed
        assert list(file) == ['episode_0']
