"""D4RL's flat files become episodes: none of their steps is joined to another episode's."""

import re
import sys
from types import SimpleNamespace

import gymnasium as gym
import h5py
import numpy as np
import pytest

from spot_jax.acting.tasks import TASKS
from spot_jax.core.types import unpack
from spot_jax.data import d4rl, d4rl_file
from spot_jax.data.load import load, open_minari
from spot_jax.datasets.__main__ import main

ID = 'd4rl/toy/mixed-v2'


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    path = tmp_path / 'store'
    path.mkdir()
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(path))
    return path


def steps(n, o=2, a=1):
    """A file's arrays: step i observes i, i + 1/4, ...; is rewarded with i; no episode ends."""
    return {
        'observations': (np.arange(n)[:, None] + np.arange(o) / 4).astype(np.float32),
        'actions': np.tile(np.linspace(-1, 1, n, dtype=np.float32)[:, None], a),
        'rewards': np.arange(n, dtype=np.float32),
        'terminals': np.zeros(n, bool),
    }


def flags(n, *true):
    return np.isin(np.arange(n), true)


def six(**changes):
    """Episodes of steps 0 1 2, which terminates, 3 4, which times out, and 5; without next observations."""
    return steps(6) | {'terminals': flags(6, 2), 'timeouts': flags(6, 4)} | changes


def successors(observations):
    """Next observations of `six`, each episode's last one apart from all others."""
    following = np.roll(observations, -1, axis=0)
    following[[2, 4, 5]] = observations[[2, 4, 5]] + 100
    return following


def write(path, arrays, **options):
    with h5py.File(path, 'w') as file:
        for name, values in arrays.items():
            if values is not None:
                file.create_dataset(name, data=values, **options)
    return path


@pytest.fixture
def import_file(tmp_path):
    """Writes and imports a file; returns the exit status."""

    def run(arrays, *flags, dataset_id=ID):
        return main(['import-d4rl', str(write(tmp_path / 'toy.hdf5', arrays)), f'--id={dataset_id}', *flags])

    return run


def ids(values):
    """Which steps the rows of observations are."""
    return values[:, 0].tolist()


def test_without_next_observations_a_timed_out_episode_gives_up_its_last_step(import_file, capsys):
    assert import_file(six()) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f'{ID} can be trained on, but not evaluated')
    assert out[1:] == [f'{ID}: 4 transitions in 2 episodes']
    first, second = open_minari(ID).iterate_episodes()
    assert ids(first.observations) == [0, 1, 2, 2]
    assert (first.terminations.tolist(), first.truncations.tolist()) == ([False, False, True], [False] * 3)
    assert ids(second.observations) == [3, 4]
    assert (second.terminations.tolist(), second.truncations.tolist()) == ([False], [True])
    assert first.observations.dtype == first.actions.dtype == first.rewards.dtype == np.float32

    data = load(ID, TASKS['locomotion'])
    rows = unpack(data.transitions, 2, 1)
    np.testing.assert_array_equal(rows.observations, [[i, i + 0.25] for i in (0, 1, 2, 3)])
    np.testing.assert_array_equal(rows.next_observations, [[i, i + 0.25] for i in (1, 2, 2, 4)])
    np.testing.assert_allclose(rows.actions[:, 0], [-1, -0.6, -0.2, 0.2], atol=1e-6)
    np.testing.assert_array_equal(rows.rewards, [0, 1, 2, 3])
    np.testing.assert_array_equal(rows.masks, [1, 1, 0, 1])
    assert data.environment is None


@pytest.mark.parametrize('has_timeouts', [True, False])
def test_with_next_observations_no_step_is_lost(import_file, monkeypatch, has_timeouts):
    monkeypatch.setattr(d4rl_file, 'CHUNK', 2)
    arrays = six(next_observations=successors(six()['observations']))
    assert import_file(arrays if has_timeouts else arrays | {'timeouts': None}) == 0
    episodes = list(open_minari(ID).iterate_episodes())
    assert [ids(e.observations) for e in episodes] == [[0, 1, 2, 102], [3, 4, 104], [5, 105]]
    assert [e.truncations.tolist() for e in episodes] == [[False] * 3, [False, True], [True]]
    rows = unpack(load(ID, TASKS['locomotion']).transitions, 2, 1)
    np.testing.assert_array_equal(rows.next_observations, arrays['next_observations'])
    np.testing.assert_array_equal(rows.masks, [1, 1, 0, 1, 1, 1])


def test_a_terminal_beats_a_timeout_and_flags_may_be_numbers(import_file):
    arrays = six(terminals=flags(6, 2, 5).astype(np.float32), timeouts=flags(6, 2).astype(np.uint8))
    assert import_file(arrays) == 0
    episodes = list(open_minari(ID).iterate_episodes())
    assert [ids(e.observations) for e in episodes] == [[0, 1, 2, 2], [3, 4, 5, 5]]
    assert all(e.terminations.tolist() == [False, False, True] for e in episodes)
    assert not any(e.truncations.any() for e in episodes)


def test_infos_have_an_entry_per_observation(import_file):
    infos = {'infos/goal': np.arange(12.0).reshape(6, 2), 'infos/qpos': np.arange(6.0), 'infos/other': np.zeros(6)}
    assert import_file(six(**infos)) == 0
    first, second = open_minari(ID).iterate_episodes()
    assert sorted(first.infos) == ['goal', 'qpos']
    np.testing.assert_array_equal(first.infos['goal'], [[0, 1], [2, 3], [4, 5], [4, 5]])
    np.testing.assert_array_equal(second.infos['goal'], [[6, 7], [8, 9]])
    np.testing.assert_array_equal(second.infos['qpos'], [3, 4])
    arrays = six(**infos, next_observations=successors(six()['observations']))
    assert import_file(arrays, '--overwrite') == 0
    assert [e.infos['qpos'].tolist() for e in open_minari(ID).iterate_episodes()] == [[0, 1, 2, 2], [3, 4, 4], [5, 5]]


def test_time_limit_of_the_environment_where_the_file_knows_none(import_file, capsys):
    arrays = steps(2500, 11, 3) | {'terminals': flags(2500, 1199)}
    assert import_file(arrays, '--environment=Hopper-v5') == 0
    assert capsys.readouterr().out == f'{ID}: 2497 transitions in 4 episodes\n'
    episodes = list(open_minari(ID).iterate_episodes())
    spans = [(e.observations[0, 0], len(e), bool(e.terminations[-1])) for e in episodes]
    assert spans == [(0, 999, False), (1000, 200, True), (1200, 999, False), (2200, 299, False)]
    assert import_file(arrays, '--overwrite') == 0
    assert 'does not say where time-outs are' in capsys.readouterr().out
    assert [len(e) for e in open_minari(ID).iterate_episodes()] == [1200, 1299]


def test_environment_that_agrees_is_where_to_evaluate(import_file, capsys):
    assert import_file(steps(20, 11, 3), '--environment=Hopper-v5') == 0
    data = load(ID, TASKS['locomotion'])
    assert data.environment.id == open_minari(ID).spec.env_spec.id == 'Hopper-v5'
    assert data.transitions.shape == (19, 27)
    capsys.readouterr()
    assert main(['show', ID]) == 0
    out = capsys.readouterr().out
    assert 'environment: Hopper-v5\n' in out
    assert 'made by: D4RL' in out
    assert 'toy.hdf5' in out


@pytest.mark.parametrize(
    ('size', 'environment', 'reason'),
    [
        ((29, 8), 'Hopper-v5', 'observations of 11 values, the dataset has 29'),
        ((11, 2), 'Hopper-v5', 'action bounds'),
        ((4, 1), 'CartPole-v1', 'not vectors'),
        ((3, 1), 'Pendulum-v1', None),
        ((29, 8), 'AntMaze_UMaze-v5', 'observations of'),
        ((11, 3), 'Hopper-v2', 'cannot make the dataset'),
    ],
)
def test_environment_and_sizes(import_file, capsys, size, environment, reason):
    assert import_file(steps(9, *size), f'--environment={environment}') == 0
    out = capsys.readouterr().out.splitlines()
    assert (len(out) == 1) if reason is None else (len(out) == 2 and reason in out[0])
    found = load(ID, TASKS['locomotion']).environment
    assert (found and found.id) == (environment if reason is None else None)
    capsys.readouterr()
    assert main(['show', ID]) == 0
    assert ('environment: none (it cannot be evaluated)' in capsys.readouterr().out) == (reason is not None)


@pytest.mark.parametrize(('shift', 'agrees'), [(0, True), (8, False)])
def test_antmaze(import_file, capsys, monkeypatch, shift, agrees):
    monkeypatch.setattr(d4rl, 'SAMPLE', 4)
    arrays = steps(8, 29, 8) | {'rewards': flags(8, 3, 7).astype(np.float32), 'terminals': flags(8, 3)}
    arrays['observations'][:, :2] = [-4, 4]  # a free cell's centre, in metres
    arrays['observations'][4:, 0] += 2 * shift  # outside
    assert import_file(arrays, '--environment=AntMaze_UMaze-v4') == 0
    assert ("50% of the data's positions lie in walls" in capsys.readouterr().out) == (not agrees)
    data = load(ID, TASKS['antmaze'])
    assert (data.environment is not None) == agrees
    rows = unpack(data.transitions, 29, 8)
    np.testing.assert_array_equal(rows.observations, arrays['observations'][:7])
    np.testing.assert_array_equal(rows.rewards, [-1, -1, -1, 0, -1, -1, -1])
    np.testing.assert_array_equal(rows.masks, [1, 1, 1, 0, 1, 1, 1])


def test_pointmaze_is_checked_under_its_rule(import_file):
    arrays = steps(8, 4, 2)
    arrays['observations'][:, :2] = [-1, 1]
    arrays['rewards'] = np.arange(8) == 7  # a maze's are 0 or 1
    assert import_file(arrays, '--environment=spot_jax/PointMaze-UMaze-v0') == 0
    assert load(ID, TASKS['pointmaze']).environment.id == 'spot_jax/PointMaze-UMaze-v0'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'observations': None}, 'has no observations'),
        ({'terminals': None, 'rewards': None}, 'has no rewards, terminals'),
        ({'actions': np.zeros((5, 1))}, 'differ in length: .*actions 5'),
        ({'timeouts': np.zeros(7, bool)}, 'differ in length: .*timeouts 7'),
        ({'infos/goal': np.zeros((3, 2))}, 'differ in length: .*infos/goal 3'),
        ({'observations': np.zeros(6)}, r'observations must be \[steps, size\]'),
        ({'rewards': np.zeros((6, 2))}, r'rewards must be \[steps\]'),
        ({'rewards': np.float32(1)}, r'rewards must be \[steps\]'),
        ({'actions': np.zeros((6, 0))}, r'actions must be \[steps, size\]'),
        ({'actions': np.full((6, 1), b'x')}, 'actions must be an array of numbers'),
        ({'observations': None, 'observations/inner': np.zeros(6)}, 'observations must be an array'),
        ({'next_observations': np.zeros((6, 3))}, 'next_observations must have the shape'),
        ({'terminals': np.full(6, 0.5)}, 'terminals must be 0 or 1'),
        ({k: v[:0] for k, v in six().items()}, 'is empty'),
        ({k: v[:1] for k, v in steps(6).items()} | {'timeouts': None}, 'no episode'),
        ({'timeouts': np.ones(6, bool), 'terminals': np.zeros(6, bool)}, 'no episode'),
        ({'observations': np.full((6, 2), np.nan)}, 'observations contain NaN or infinity'),
        ({'actions': np.full((6, 1), np.inf)}, 'actions contain NaN or infinity'),
        ({'rewards': np.full(6, -np.inf)}, 'rewards contain NaN or infinity'),
        ({'actions': np.full((6, 1), 1.1)}, 'actions outside the bounds'),
    ],
)
def test_bad_arrays_are_one_clear_error(import_file, store, capsys, changes, message):
    assert import_file(six(**changes)) == 2
    _check_refusal(capsys, store, message)


def _check_refusal(capsys, store, message):
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.count('\n') == 1
    assert re.search(message, captured.err)
    assert list(store.iterdir()) == []


def test_bounds_are_those_of_the_environment(import_file, store, capsys):
    arrays = steps(9, 348, 17)
    assert import_file(arrays, '--environment=Humanoid-v5') == 2
    _check_refusal(capsys, store, 'actions outside the bounds -0.4 to 0.4, by up to 0.6')
    assert import_file(arrays | {'actions': 0.4 * arrays['actions']}, '--environment=Humanoid-v5') == 0
    rows = unpack(load(ID, TASKS['locomotion']).transitions, 348, 17)
    np.testing.assert_allclose(rows.actions, arrays['actions'][:8], atol=1e-6)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda path: path.unlink(), 'no such file'),
        (lambda path: path.write_bytes(b'text'), 'no HDF5 file'),
        (lambda path: path.write_bytes(b''), 'no HDF5 file'),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), 'damaged'),
        (lambda path: _garble(path, 'observations', 1), 'damaged: observations'),  # found while episodes are written
        (lambda path: _garble(path, 'terminals', 0), 'damaged: terminals'),
    ],
)
def test_damaged_file(tmp_path, store, capsys, damage, message):
    arrays = steps(300)
    arrays['timeouts'] = np.arange(300) % 50 == 49
    path = write(tmp_path / 'toy.hdf5', arrays, chunks=True, compression='gzip')
    damage(path)
    assert main(['import-d4rl', str(path), f'--id={ID}']) == 2
    _check_refusal(capsys, store, message)


def _garble(path, name, chunk):
    with h5py.File(path) as file:
        info = file[name].id.get_chunk_info(min(chunk, file[name].id.get_num_chunks() - 1))
    with path.open('r+b') as file:
        file.seek(info.byte_offset)
        file.write(b'\xff' * info.size)


@pytest.mark.parametrize(
    'dataset_id', ['toy', 'd4rl/toy', 'd4rl/toy-v', '../toy-v0', '/d4rl/toy-v0', 'd4rl//toy-v0', '']
)
def test_bad_id(import_file, store, capsys, dataset_id):
    assert import_file(six(), dataset_id=dataset_id) == 2
    _check_refusal(capsys, store, 'is no dataset id')


def test_full_disk(import_file, store, capsys, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=1000))
    assert import_file(six()) == 2
    _check_refusal(capsys, store, 'has no room: it takes about 0 MB')


@pytest.mark.parametrize('environment', ['Hoper-v5', 'Hopper', 'two words', ''])
def test_unknown_environment(import_file, store, capsys, environment):
    assert import_file(steps(9, 11, 3), f'--environment={environment}') == 2
    _check_refusal(capsys, store, f'--environment={environment}: ')


def test_nothing_is_overwritten_unless_asked(import_file, store, capsys):
    assert import_file(six()) == 0
    assert import_file(steps(6)) == 2
    assert 'there already' in capsys.readouterr().err
    assert import_file(six(rewards=np.full(6, np.nan)), '--overwrite') == 2  # a failure takes nothing away
    assert open_minari(ID).total_steps == 4
    assert import_file(steps(6), '--overwrite') == 0
    assert open_minari(ID).total_steps == 5
    (store / 'd4rl' / 'others-v0' / 'toy-v0').mkdir(parents=True)
    assert import_file(six(), '--overwrite', dataset_id='d4rl/others-v0') == 2
    assert (store / 'd4rl' / 'others-v0' / 'toy-v0').exists()
    assert import_file(six(), dataset_id='toy-v0') == 0  # without a namespace
    assert sorted(p.name for p in store.iterdir()) == ['d4rl', 'toy-v0']


@pytest.mark.parametrize('dtype', ['?', 'u1', 'i8', 'f2', '>f8', 'f8'])
def test_columns_of_any_number_type(import_file, dtype):
    def column(values):
        return np.asarray(values).astype(dtype)[:, None]

    rewards = np.array([0, 1, 1, 0, 1, 0])
    columns = {name: column(six()[name]) for name in ('terminals', 'timeouts')}
    assert import_file(six(rewards=column(rewards), **columns)) == 0
    first, second = open_minari(ID).iterate_episodes()
    assert [ids(e.observations) for e in (first, second)] == [[0, 1, 2, 2], [3, 4]]
    assert first.rewards.shape == (3,)
    np.testing.assert_array_equal(unpack(load(ID, TASKS['locomotion']).transitions, 2, 1).rewards, rewards[:4])


def test_next_observations_that_disagree_cut_the_episode(import_file, capsys):
    following = successors(six()['observations'])
    following[0] += 50  # not what is observed next, and no time-out says why
    assert import_file(six(next_observations=following)) == 0
    assert 'the next observations of 1 steps are not what is observed next' in capsys.readouterr().out
    episodes = list(open_minari(ID).iterate_episodes())
    assert [ids(e.observations) for e in episodes] == [[0, 51], [1, 2, 102], [3, 4, 104], [5, 105]]
    np.testing.assert_array_equal(unpack(load(ID, TASKS['locomotion']).transitions, 2, 1).next_observations, following)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's that registers an environment; others that are no use."""
    (tmp_path / 'walkers.py').write_text(
        'import gymnasium as gym, numpy as np\n'
        'class Walker(gym.Env):\n'
        '    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))\n'
        '    action_space = gym.spaces.Box(-2, 2, (1,))\n'
        "gym.register('mine/Walker-v0', 'walkers:Walker', max_episode_steps=2)\n"
        "gym.register('Odd-v0', 'walkers:Walker', kwargs={'no': 1})\n"
    )
    (tmp_path / 'broken.py').write_text('import sys; sys.exit("bye")')
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ('mine/Walker-v0', 'Odd-v0'):
        gym.registry.pop(name, None)
    sys.modules.pop('walkers', None)


def test_environment_of_an_own_module(import_file, own_module, capsys):
    assert import_file(steps(6), '--environment=walkers:mine/Walker-v0') == 0
    assert len(list(open_minari(ID).iterate_episodes())) == 3  # its time limit is 2
    data = load(ID, TASKS['locomotion'])
    assert data.environment.id == 'mine/Walker-v0'
    np.testing.assert_array_equal(data.action_high, [2])
    capsys.readouterr()
    assert import_file(steps(6), '--environment=walkers:Odd-v0', '--overwrite') == 0
    assert 'not evaluated: cannot make the' in capsys.readouterr().out


@pytest.mark.parametrize(
    'environment',
    ['nowhere:Walker-v0', 'walkers:Nothing-v0', 'broken:x-v0', '..:x-v0', ':x-v0', 'walkers:', 'a:b:c-v0'],
)
def test_environment_of_no_module(import_file, own_module, store, capsys, environment):
    assert import_file(steps(6), f'--environment={environment}') == 2
    _check_refusal(capsys, store, f'--environment={re.escape(environment)}: ')


def declare(path, n, width, chunk, fill=None):
    """A file whose arrays have `n` steps, and hold none of them."""
    with h5py.File(path, 'w') as file:
        for name, shape in {'observations': (n, width), 'actions': (n, 1), 'rewards': (n,), 'terminals': (n,)}.items():
            chunks = (min(chunk, n), *[min(chunk, k) for k in shape[1:]])
            file.create_dataset(name, shape, 'f4', chunks=chunks, compression='gzip', fillvalue=fill)
    return path


@pytest.mark.parametrize(('n', 'width', 'chunk'), [(10**12, 11, 1000), (100, 10**9, 1000), (10**8, 3, 10**7)])
def test_declared_sizes_that_no_file_holds(tmp_path, store, capsys, n, width, chunk):
    assert main(['import-d4rl', str(declare(tmp_path / 'x.hdf5', n, width, chunk)), f'--id={ID}']) == 2
    _check_refusal(capsys, store, r'declares .* GB in a file of .* MB')


def test_chunks_that_do_not_fit(tmp_path, store, capsys, monkeypatch):
    monkeypatch.setattr(d4rl_file, 'MAX_CHUNK', 1000)
    path = write(tmp_path / 'x.hdf5', steps(600), chunks=True, compression='gzip')
    assert main(['import-d4rl', str(path), f'--id={ID}']) == 2
    _check_refusal(capsys, store, 'stored in chunks of .* repack')


def test_what_was_never_written_is_zero(tmp_path):
    """A lazy file: its flags are the fill value."""
    path = write(tmp_path / 'x.hdf5', {k: v for k, v in steps(6).items() if k != 'terminals'})
    with h5py.File(path, 'r+') as file:
        file.create_dataset('terminals', (6,), '?')
    assert main(['import-d4rl', str(path), f'--id={ID}']) == 0
    assert open_minari(ID).total_steps == 5


def test_an_episode_that_does_not_fit_in_memory(import_file, store, capsys, monkeypatch):
    monkeypatch.setattr('os.sysconf', lambda name: 8)
    assert import_file(six()) == 2
    _check_refusal(capsys, store, 'does not fit in a memory')


@pytest.mark.parametrize('value', [1e300, -1e300])
@pytest.mark.parametrize('name', ['observations', 'actions', 'rewards'])
def test_numbers_that_float32_does_not_have(import_file, store, capsys, name, value):
    assert import_file(six(**{name: np.full(six()[name].shape, value)})) == 2
    _check_refusal(capsys, store, f'{name} contain NaN or infinity')


@pytest.mark.parametrize('dtype', ['c8', 'S3', [('a', 'f4')], h5py.string_dtype(), h5py.ref_dtype])
def test_arrays_of_no_numbers(tmp_path, store, capsys, dtype):
    path = write(tmp_path / 'x.hdf5', steps(6) | {'rewards': None})
    with h5py.File(path, 'r+') as file:
        file.create_dataset('rewards', (6,), dtype)
    assert main(['import-d4rl', str(path), f'--id={ID}']) == 2
    _check_refusal(capsys, store, 'rewards must be an array of numbers')


def test_files_that_are_none(tmp_path, store, capsys):
    for path in (tmp_path, '/dev/null'):
        assert main(['import-d4rl', str(path), f'--id={ID}']) == 2
        _check_refusal(capsys, store, 'is a folder or a device')
