"""`datasets show` and `list` tell of sets of any kind, damaged ones and foreign folders in a line each."""

import json
import re

import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from minari.data_collector import EpisodeBuffer

from spot_jax.datasets.__main__ import main
from spot_jax.datasets.show import reaches_goal

T = 100
FLAT = Box(-9, 9, (2,), np.float32)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    path = tmp_path / 'store'
    path.mkdir()
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(path))
    return path


def make(actions, action_space, observations=None, observation_space=FLAT, name='toy/set-v0', rewards=None, infos=None):
    episode = EpisodeBuffer(
        observations=np.zeros((T + 1, 2), np.float32) if observations is None else observations,
        actions=actions,
        rewards=np.linspace(0, 1, T) if rewards is None else rewards,
        terminations=np.zeros(T, bool),
        truncations=np.arange(T) == T - 1,
        infos=infos,
    )
    spaces = {'observation_space': observation_space, 'action_space': action_space}
    minari.create_dataset_from_buffers(name, [episode], **spaces)
    return name


def shown(capsys, *arguments):
    """What `show` prints; it must succeed."""
    assert main(['show', *(arguments or ('toy/set-v0',))]) == 0
    return capsys.readouterr().out


def share_at_bounds(capsys, low, high, actions):
    space = Box(np.array(low, np.float64), np.array(high, np.float64), dtype=np.float64)
    make(np.array(actions, np.float64), space)
    found = re.search(r'actions at their bounds \(99%\): (.*)%', shown(capsys))
    return float(found[1]) if found else None


@pytest.mark.parametrize(
    ('low', 'high', 'column', 'share'),
    [
        (-1, 1, np.linspace(-1, 1, T), 2.0),  # -1 and 1 alone
        (0, 4, np.linspace(0, 4, T), 2.0),
        (-3, -1, np.where(np.arange(T) < 30, -1, -2), 30.0),
        (-2, 8, np.where(np.arange(T) < 30, -1.96, 0), 30.0),
        (-2, 8, np.where(np.arange(T) < 30, -1.94, 0), 0.0),
        (-1e300, 1e300, np.zeros(T), 0.0),
        (0, np.inf, np.zeros(T), None),
        (-np.inf, np.inf, np.zeros(T), None),
        (3, 3, np.full(T, 3), None),
    ],
)
def test_actions_at_their_bounds(capsys, low, high, column, share):
    assert share_at_bounds(capsys, [low], [high], column[:, None]) == share


def test_dimensions_without_two_bounds_do_not_count(capsys):
    actions = np.stack([np.linspace(-1, 0, T), np.full(T, 5), np.zeros(T)], axis=1)
    assert share_at_bounds(capsys, [-1, 5, 0], [1, 5, np.inf], actions) == 1.0


def test_the_variance_of_actions_is_that_of_all_steps_in_the_unit_cube(capsys):
    actions = np.stack([np.where(np.arange(T) < 50, 1, 5), np.full(T, 4)], axis=1)  # -0.5 and 0.5 of [-1, 1]; constant
    make(actions.astype(np.float32), Box(np.float32([-1, 0]), np.float32([7, 9])))
    assert 'variance of the actions, scaled to [-1, 1]: 0.125\n' in shown(capsys)


def test_an_ants_gait_by_hand(capsys):
    """Half of the steps stand at one place, the others run at another, there with two headings."""
    qpos, qvel, runs = np.zeros((T + 1, 15)), np.zeros((T + 1, 14)), np.arange(T + 1) >= 50
    qvel[runs, :3] = 0.6, 0.8, 9  # 1 m/s, and up
    qpos[:, :2] = np.where(runs[:, None], [1.5, 0.5], [0.9, 0.1])
    qpos[:, 3] = 1  # along +x
    qpos[75:, 3:7] = np.cos(0.9), 0, 0, np.sin(0.9)  # turned by 1.8
    qpos[:10, 3:7] = 0, 1, 0, 0  # on its back, along +x
    for goal, share in (([1.5, 0.9], '100.0'), ([1.5, 1], '0.0')):
        infos = {'qpos': qpos, 'qvel': qvel, 'goal': np.tile(goal, (T + 1, 1))}
        make(np.zeros((T, 8), np.float32), Box(-1, 1, (8,)), infos=infos, name=f'toy/set{share[0]}-v0')
        out = shown(capsys, f'toy/set{share[0]}-v0')
        assert '1, 5, 25, 50, 75, 95%: 0.00, 0.00, 0.00, 0.50, 1.00, 1.00; slower than 0.26: 50.0%\n' in out
        # -(0.75 ln 0.75 + 0.25 ln 0.25), and half of ln 2
        assert "heading's entropy of 3.18 nats: 0.56, at a place (1 m²) 0.35\n" in out
        assert 'upside down: 10.0%\n' in out
        assert f'episodes that reach their own goal: {share}%\n' in out
    make(np.zeros((T, 8), np.float32), Box(-1, 1, (8,)), infos={'qpos': qpos[:, :9], 'qvel': qvel})
    assert 'upside down' not in shown(capsys)  # no ant


@pytest.mark.parametrize(
    ('actions', 'space'),
    [
        (np.arange(T) % 3, Discrete(3)),
        (np.zeros((T, 2), np.int64), MultiDiscrete([2, 3])),
        ({'a': np.zeros((T, 1), np.float32)}, Dict(a=Box(-1, 1, (1,)))),
        ((np.zeros((T, 1), np.float32), np.zeros(T, np.int64)), Tuple((Box(-1, 1, (1,)), Discrete(2)))),
        (np.zeros((T, 2, 2), np.float32), Box(-1, 1, (2, 2))),
        (np.zeros(T, np.float32), Box(-1, 1, ())),
    ],
)
def test_actions_of_every_kind(capsys, actions, space):
    make(actions, space)
    out = shown(capsys)
    assert f'{T} transitions in 1 episodes' in out
    assert ('at their bounds' in out) == isinstance(space, Box)
    assert f'actions: {space}' in out


@pytest.mark.parametrize(
    ('observations', 'space'),
    [
        (np.zeros((T + 1, 40, 40, 3), np.uint8), Box(0, 255, (40, 40, 3), np.uint8)),
        ((np.zeros((T + 1, 1)), np.zeros((T + 1, 2))), Tuple((Box(-1, 1, (1,)), Box(-1, 1, (2,))))),
        ({'x': np.zeros((T + 1, 3))}, Dict(x=Box(-1, 1, (3,)))),
        (np.zeros(T + 1, np.int64), Discrete(4)),
    ],
)
def test_observations_of_every_kind(capsys, tmp_path, observations, space):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)), observations, space)
    out = shown(capsys, 'toy/set-v0', f'--plot={tmp_path / "x.png"}')
    assert 'returns: mean 50.00' in out
    assert (tmp_path / 'x.png').stat().st_size > 1000


def edit(store, **changes):
    path = store / 'toy/set-v0/data/metadata.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_text_of_others_cannot_move_the_cursor(store, capsys):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)))
    edit(store, description='a\x1b[2Jb\nc', author=['x\r'], algorithm_name=None)
    out = shown(capsys)
    assert out.splitlines()[-1] == 'a\\x1b[2Jb c'
    assert 'made by: x : None' in out


@pytest.mark.parametrize('rewards', [np.zeros((T, 2)), np.full(T, b'x'), np.full(T, np.nan), np.full(T, 1e300)])
def test_rewards_that_are_none(capsys, rewards):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)), rewards=rewards)
    status = main(['show', 'toy/set-v0'])
    captured = capsys.readouterr()
    assert (status, captured.err.count('\n')) == ((0, 0) if rewards.dtype == float and rewards.ndim == 1 else (2, 1))


def test_empty_and_damaged_sets(store, tmp_path, capsys):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)))
    edit(store, total_steps=7)
    assert 'damaged: its episodes have 100 steps, its metadata say 7' in shown(capsys)
    edit(store, total_episodes=0, total_steps=0)
    assert '0 transitions in 0 episodes' in shown(capsys)
    assert main(['show', 'toy/set-v0', f'--plot={tmp_path / "x.png"}']) == 2
    assert capsys.readouterr().err == 'error: --plot: toy/set-v0 is empty\n'
    edit(store, total_episodes=3)
    for damage in ({'total_episodes': 3}, {'total_steps': 'x'}, {'action_space': '{}'}, {'author': 5}):
        edit(store, **damage)
        assert main(['show', 'toy/set-v0']) == 2
        assert capsys.readouterr().err.count('\n') == 1
    assert main(['list']) == 0
    assert 'toy/set-v0: damaged (its metadata count no steps and episodes)' in capsys.readouterr().out


def test_data_that_are_cut_off_are_damaged(store, capsys):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)))
    (path,) = store.rglob('main_data.hdf5')
    assert listed(capsys) == ['toy/set-v0: 100 transitions in 1 episodes']
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (line,) = listed(capsys)
    assert line.startswith('toy/set-v0: damaged (')
    assert 'truncated file' in line


def test_a_maze_of_dense_rewards_is_reached_where_its_goal_is():
    """exp(-distance) is above a half well outside the goal; sparse rewards count as they are."""
    where = {name: np.full((T + 1, 2), 1.0) for name in ('achieved_goal', 'desired_goal')}
    state = {'observation': np.zeros((T + 1, 2)), **where}
    box = Box(-9, 9, (2,), np.float64)
    space = Dict(dict.fromkeys(state, box))
    sets = {'near': (0.6, np.exp(-0.6)), 'there': (0.4, np.exp(-0.4)), 'sparse': (5.0, 1.0)}
    for name, (distance, reward) in sets.items():
        state['achieved_goal'] = where['desired_goal'] + [distance, 0]
        make(np.zeros((T, 2), np.float32), Box(-1, 1, (2,)), state, space, f'toy/{name}-v0', np.full(T, reward))
    episodes = {name: next(minari.load_dataset(f'toy/{name}-v0').iterate_episodes()) for name in sets}
    assert {name: reaches_goal(episode) for name, episode in episodes.items()} == {
        'near': False,
        'there': True,
        'sparse': True,
    }


def test_a_picture_is_replaced_only_when_asked(tmp_path, capsys):
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)))
    picture, text = tmp_path / 'x.png', tmp_path / 'thesis.tex'
    text.write_text('years of work')
    shown(capsys, 'toy/set-v0', f'--plot={picture}')
    picture.write_text('another')
    folder = tmp_path / 'folder.png'
    folder.mkdir()
    for path, words in (
        (text, 'names no .png file'),
        (tmp_path, 'names no .png file'),
        (picture, 'exists: give --overwrite, or another --plot'),
        (folder, 'is a folder: give another --plot'),
        (text / 'x.png', f'cannot write in {text}'),
    ):
        assert main(['show', 'toy/set-v0', f'--plot={path}']) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count('\n')) == ('', 1)
        assert words in printed.err
    assert (text.read_text(), picture.read_text()) == ('years of work', 'another')
    shown(capsys, 'toy/set-v0', f'--plot={picture}', '--overwrite')
    shown(capsys, 'toy/set-v0', f'--plot={tmp_path / "new" / "x.png"}')
    assert picture.read_bytes() == (tmp_path / 'new' / 'x.png').read_bytes()


def listed(capsys):
    """The lines of `list`, but for the recipes."""
    assert main(['list']) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith('can be generated: ')
    return lines


def test_list_names_what_is_no_dataset_and_goes_on(store, capsys):
    assert listed(capsys) == []
    make(np.zeros((T, 1), np.float32), Box(-1, 1, (1,)))
    metadata = (store / 'toy/set-v0/data/metadata.json').read_text()
    for name, content in [
        *(('data/x-v0', metadata.replace('toy/set-v0', 'data/x-v0')), ('toy/data/y-v0', '{"a":')),
        *(
            ('toy/wrong-v0', metadata),
            ('toy/none-v0', '[]'),
            ('toy/half-v0', '{"a":'),
            ('toy/empty-v0', '{}'),
            ('no version', metadata.replace('toy/set-v0', 'no version')),
        ),
    ]:
        data = store / name / 'data'
        data.mkdir(parents=True)
        (data / 'metadata.json').write_text(content)
        (data / 'main_data.hdf5').touch()
    (store / 'toy/bare-v0/data').mkdir(parents=True)
    (store / 'toy/gone-v0/data').mkdir(parents=True)
    (store / 'toy/gone-v0/data/metadata.json').write_text(metadata)
    (store / 'photos/2020/june').mkdir(parents=True)
    (store / 'photos/2021').mkdir()
    (store / 'new\nline').mkdir()
    (store / 'round').symlink_to(store)
    (store / '.toy-set-v0.tmp').mkdir()
    (store / '.other').mkdir()
    (store / 'a file').touch()
    lines = listed(capsys)
    assert lines == [
        'data/x-v0: is there, but that is no dataset id',
        'new line: holds no dataset',
        'no version: is there, but that is no dataset id',
        'photos: holds no dataset',
        'toy/bare-v0: damaged (it has no metadata.json)',
        'toy/data/y-v0: is there, but that is no dataset id',
        "toy/empty-v0: damaged (its metadata have no 'dataset_id')",
        'toy/gone-v0: damaged (it has no main_data.hdf5)',
        *(line for line in lines if line.startswith('toy/half-v0: damaged (Expecting value')),
        *(line for line in lines if line.startswith('toy/none-v0: damaged')),
        'toy/set-v0: 100 transitions in 1 episodes',
        "toy/wrong-v0: damaged (its metadata call it 'toy/set-v0')",
        '.toy-set-v0.tmp: unfinished; the command that began it goes on with it, or begins anew',
    ]
    assert len(lines) == 13


def test_list_of_no_folder(store, capsys, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(store / 'missing'))
    assert listed(capsys) == []
    assert not (store / 'missing').exists()  # looking makes nothing
    (store / 'file').touch()
    for bad in (str(store / 'file'), ''):
        monkeypatch.setenv('MINARI_DATASETS_PATH', bad)
        assert main(['list']) == 2
        assert capsys.readouterr().err.count('\n') == 1
