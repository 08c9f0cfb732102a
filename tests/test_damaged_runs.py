"""A run's folder as people, disks and other programs leave it: a run of an older version, and damage of every kind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny

from spot_jax import evaluate, plot
from spot_jax.pictures.curves import choose_metric, learning_curves
from spot_jax.population.program import PhaseState
from spot_jax.run import training
from spot_jax.run.evaluations import Evaluations
from spot_jax.run.ring_files import RingFiles
from spot_jax.run.workdir import open_workdir, read_run, without_broken
from spot_jax.storage import checkpoint
from spot_jax.storage.folder import held
from spot_jax.system.errors import InputError, exit_status

OLDER = Path(__file__).parent / 'data' / 'older_run'
FILES = [
    'config.json',
    'metrics.csv',
    'results.json',
    *(f'checkpoints/{number}.msgpack' for number in (2000000002, 2000000004)),
    *(f'ring/{name}.npy' for name in ('0000000000_0000000004', '0000000004_0000000008')),
]
SIZES, SHA256 = (4, 2), '78f84542f57884b8593203f3265c5807796dd7884ba312a9359dd14565e10060'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MINARI_DATASETS_PATH', str(tmp_path_factory.mktemp('minari')))
        stored.make_dataset()
        yield


@pytest.mark.usefixtures('data')
def test_a_run_of_an_older_version_resumes_evaluates_and_plots(tmp_path, capsys):
    """Made by revision ffa407d: its config lacks fields, its ring files and metrics have no checksums."""
    run = shutil.copytree(OLDER, tmp_path / 'run')
    assert evaluate.main([str(run), '--episodes=1']) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'member {k}: return 0.00, length 20.0, success_rate 0.00' for k in (0, 1)
    ]
    assert training.run(stored.config(**{'online.steps': 12}), run) == 0
    before, after = ((folder / 'metrics.csv').read_text() for folder in (OLDER, run))
    assert after.startswith(before)
    rows = after[len(before) :].splitlines()
    assert [row.split(',')[:3] for row in rows] == [['online', '20', k] for k in '0101']  # training, evaluation
    results = json.loads((run / 'results.json').read_text())
    assert [m['gradient_steps'] for m in results['members']] == [20, 20]
    state = read_run(run)[1]
    ring, earlier = (RingFiles(f / 'ring', read_run(f)[1]['ring_segments']).load((2, 1), 12, 12) for f in (run, OLDER))
    assert (ring.count, earlier.count) == (12, 8)
    np.testing.assert_array_equal(ring.rows[:, :, :8], earlier.rows[:, :, :8])
    assert state['ring_sha256'].shape == (3, 32)
    assert plot.main([str(run), '--episodes=1']) == 0
    assert {path.name for path in (run / 'plots').iterdir()} == {'learning_curves.png', 'rollouts.png'}


def everything(folder):
    """All that is in a folder: names with contents, where links lead, and what else there is."""
    found = {}
    for path in sorted(folder.rglob('*')):
        kind = os.readlink(path) if path.is_symlink() else path.stat().st_mode
        found[str(path)] = kind, path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return found


def outcome(function, run):
    """What a reader of a run returns, or None if it refuses it: by one line, with nothing changed."""
    before = everything(run)
    try:
        return function(run)
    except InputError as error:
        said = str(error)
    assert '\n' not in said
    assert everything(run) == before
    return None


def resume(run):
    with held(run):
        return open_workdir(stored.config(), run, SIZES, SHA256, lambda: None)


def curves(run):
    rows = plot.read_run(run, 'run').rows
    try:
        return learning_curves(rows, choose_metric([rows], None))
    except (KeyError, TypeError, ValueError):  # what `plot` tells of
        return None


def same(state, number):
    """Whether a state is a stored run's checkpoint."""
    original = checkpoint.load(OLDER / 'checkpoints' / f'{number}.msgpack')
    try:
        np.testing.assert_equal({k: state[k] for k in original}, original)
    except AssertionError:
        return False
    return True


def put_folder(path):
    path.unlink()
    path.mkdir()


def put(make):
    def change(path):
        path.unlink()
        make(path)

    return change


def flip(at, bit):
    def change(path):
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1 << bit
        path.write_bytes(bytes(data))

    return change


DAMAGE = st.one_of(
    st.sampled_from(
        [
            Path.unlink,
            put(Path.mkdir),
            put(os.mkfifo),
            put(lambda path: path.symlink_to('nowhere')),
            put(lambda path: path.symlink_to(path.name)),
            put(lambda path: path.symlink_to('/dev/zero')),
            *(put(lambda path, name=name: shutil.copy(OLDER / name, path)) for name in FILES),
        ]
    ),
    st.builds(flip, st.integers(0, 10**6), st.integers(0, 7)),
    st.builds(lambda n: lambda path: path.write_bytes(path.read_bytes()[:n]), st.integers(0, 9000)),
    st.builds(lambda extra: lambda path: path.write_bytes(path.read_bytes() + extra), st.binary(min_size=1)),
    st.builds(lambda whole: lambda path: path.write_bytes(whole), st.binary()),
)
QUICKLY = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@QUICKLY.__class__(QUICKLY, max_examples=80)
@given(st.sampled_from(FILES), DAMAGE)
def test_a_damaged_file_is_passed_over_or_refused(tmp_path, name, damage):
    """What is read of a damaged run is what was written, to the bit."""
    run = tmp_path / 'run'
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(OLDER, run)
    damage(run / name)
    is_config = name == 'config.json'
    found = outcome(read_run, run)
    assert is_config or found is None or any(same(found[1], number) for number in (2000000002, 2000000004))
    outcome(curves, run)
    state = outcome(resume, run)
    if state is not None and (run / 'metrics.csv').exists():
        assert is_config or any(same(state, number) for number in (2000000002, 2000000004))
        original = (OLDER / 'metrics.csv').read_bytes()[: state['metrics_position']]
        assert name == 'metrics.csv' or (run / 'metrics.csv').read_bytes().startswith(original)


def paths(tree, prefix=()):
    """Where all parts of nested dicts are."""
    for name, value in tree.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, name))


ODD = [None, True, -1, 2**40, 10**400, 0.5, float('nan'), '', 'x\ny', [], [1], [[1]], ['x'], {}, {'x': 1}]
ARRAYS = [np.zeros(0), np.full((2, 1), np.nan), np.int32(-5), np.int32(7), np.int64(2), np.array(['x']), b'x']


def changed(tree, path, value):
    """The tree with another value somewhere; `del`: without it, a function: of the value that was there."""
    *parents, last = path
    inner = tree
    for name in parents:
        inner = inner[name]
    if isinstance(value, str) and value == 'del':
        del inner[last]
    else:
        inner[last] = value(inner[last]) if callable(value) else value


def not_a_number(value):
    return value * np.nan if isinstance(value, np.ndarray) and value.dtype.kind == 'f' else 'x'


def twice_as_exact(value):
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else None


def without_end(value):
    return value[..., :-1] if isinstance(value, np.ndarray) and value.ndim else 1


CHECKPOINT = sorted(paths(checkpoint.load(OLDER / 'checkpoints' / '2000000004.msgpack')))
CONFIG = sorted(paths(json.loads((OLDER / 'config.json').read_text())))


@QUICKLY.__class__(QUICKLY, max_examples=80)
@given(
    st.sampled_from(CHECKPOINT),
    st.sampled_from([*ODD[:-6], *ARRAYS, {}, 'del', not_a_number, twice_as_exact, without_end]),
)
def test_another_checkpoint_of_a_valid_checksum_is_passed_over(tmp_path, path, value):
    """The one before it is gone on from; only values that a run can have pass."""
    if isinstance(value, int) and value > 2**63:
        return  # msgpack has none
    run = tmp_path / 'run'
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(OLDER, run)
    newest = run / 'checkpoints' / '2000000004.msgpack'
    tree = checkpoint.load(newest)
    changed(tree, path, value)
    checkpoint.write(newest, tree)
    found = outcome(read_run, run)
    assert found is not None
    unchecked = {('sha256',), ('wall_clock',), ('evaluated_at',), ('metrics_position',), ('before',), ('episodes',)}
    if path[:1] not in unchecked and path != ('online_successes',):
        assert same(found[1], 2000000002)
    outcome(resume, run)


@QUICKLY.__class__(QUICKLY, max_examples=120)
@given(st.sampled_from(CONFIG), st.sampled_from([*ODD, 'del']))
def test_another_config_is_refused_or_means_what_it_says(tmp_path, path, value):
    run = tmp_path / 'run'
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(OLDER, run)
    config = json.loads((run / 'config.json').read_text())
    changed(config, path, value)
    (run / 'config.json').write_text(json.dumps(config))
    for reader in (read_run, curves, resume):
        outcome(reader, run)


@pytest.mark.usefixtures('data')
def test_commands_say_one_line_and_end_with_status_2(tmp_path, capsys):
    """The real commands on some of these folders."""
    run = tmp_path / 'run'
    for name, damage in (
        ('config.json', put(Path.mkdir)),
        ('config.json', lambda path: path.write_text('[' * 100_000)),
        ('checkpoints', lambda path: (shutil.rmtree(path), path.write_text('x'))),
        ('metrics.csv', put(Path.mkdir)),
        ('metrics.csv', lambda path: path.write_bytes(path.read_bytes()[:1000])),
    ):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(OLDER, run)
        damage(run / name)
        before = everything(run)
        assert exit_status(lambda: training.run(stored.config(), run)) == 2
        assert everything(run) == before
        assert capsys.readouterr().err.count('\n') == 1
        if name != 'metrics.csv':
            assert evaluate.main([str(run), '--episodes=1']) == 2
            assert capsys.readouterr().err.count('\n') == 1


def test_what_is_left_of_metrics_is_told(tmp_path, capsys):
    """Rows are never made up: a lost file begins anew, a shortened one is refused unless an older checkpoint fits."""
    run = shutil.copytree(OLDER, tmp_path / 'run')
    positions = [
        checkpoint.load(OLDER / 'checkpoints' / f'{number}.msgpack')['metrics_position']
        for number in (2000000002, 2000000004)
    ]
    whole = (run / 'metrics.csv').read_bytes()
    (run / 'metrics.csv').write_bytes(whole[: positions[0] + 5])
    assert same(resume(run), 2000000002)
    (run / 'metrics.csv').write_bytes(whole[: positions[0] - 1])
    with pytest.raises(InputError, match=r'metrics.csv is not as this run left it: put it back, or move it away'):
        resume(run)
    (run / 'metrics.csv').unlink()
    capsys.readouterr()
    assert resume(run)['metrics_position'] == 0
    assert capsys.readouterr().err == f'{run / "metrics.csv"} is gone: going on without its rows\n'
    (run / 'metrics.csv').write_text('what the resumed run begins with\n')
    assert resume(run)['metrics_position'] == 0  # also if it was stopped before its next checkpoint
    assert capsys.readouterr().err == ''


def test_a_folder_is_held_by_one_process(tmp_path):
    refused = pytest.raises(InputError, match='is in use by another process')
    with held(tmp_path / 'a' / 'b'), refused, held(tmp_path / 'a' / 'b'):
        pass
    assert not (tmp_path / 'a').exists()  # nothing was written
    with held(tmp_path / 'a'):
        (tmp_path / 'a' / 'file').touch()
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['file']


@pytest.mark.parametrize('name', ['file', 'file/x', 'nowhere', 'circle', 'x' * 300, '/'.join(['y' * 100] * 50), 'a\0b'])
def test_folders_that_cannot_be_are_a_line(tmp_path, capsys, name):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'nowhere').symlink_to('not/there')
    (tmp_path / 'circle').symlink_to('circle')
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r'^cannot write in --workdir'), held(tmp_path / name):
        pass
    with pytest.raises(InputError, match='is no run'):
        read_run(tmp_path / name)
    if '\0' not in name:  # no command line has one
        assert plot.main([str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count('\n') == 1
    assert everything(tmp_path) == before


def test_a_killed_process_holds_nothing(tmp_path):
    code = f'from pathlib import Path; from spot_jax.storage.folder import held\nwith held(Path({str(tmp_path)!r})): '
    other = subprocess.Popen([sys.executable, '-c', code + 'print(flush=True); input()'], stdin=-1, stdout=-1)
    other.stdout.readline()
    with pytest.raises(InputError, match='in use'), held(tmp_path):
        pass
    other.kill()
    other.communicate()
    with held(tmp_path):
        pass


def test_a_process_that_was_forked_does_not_keep_what_its_parent_held(tmp_path):
    """As an environment may: it outlives a run that is killed."""
    code = (
        f'import os, time; from pathlib import Path; from spot_jax.storage.folder import held\n'
        f'with held(Path({str(tmp_path)!r})):\n'
        '    child = os.fork()\n'
        '    if child == 0: time.sleep(60); os._exit(0)\n'
        '    print(child, flush=True); input()'
    )
    other = subprocess.Popen([sys.executable, '-c', code], stdin=-1, stdout=-1)
    child = int(other.stdout.readline())
    try:
        with pytest.raises(InputError, match='in use'), held(tmp_path):
            pass
        other.kill()
        other.wait()
        with held(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        other.communicate()
    assert not list(tmp_path.iterdir())


def test_a_member_whose_numbers_are_not_finite_is_saved_as_diverged():
    learner = {'w': jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]), 'b': jnp.zeros(2)}
    state = PhaseState(learner, jnp.array([True, True]), jnp.zeros(2, jnp.int32), jnp.int32(4))
    assert without_broken(state).alive.tolist() == [True, False]
    assert without_broken(state.replace(learner={'b': jnp.zeros(2)})).alive.tolist() == [True, True]


@pytest.mark.usefixtures('data')
def test_a_member_whose_numbers_are_not_finite_is_evaluated_as_diverged(tmp_path, monkeypatch):
    """A checkpoint that is written while its evaluation plays has both: no other would be read again."""
    launched = []

    def launch(self, phase, state, *_):
        launched.append(np.asarray(state.alive))
        np.testing.assert_array_equal(state.alive, without_broken(state).alive)

    monkeypatch.setattr(Evaluations, 'launch', launch)
    small = {'actor.hidden_dims': (2, 2), 'critic.hidden_dims': (4,), 'regularizer.name': 'none'}
    steps = {'offline.steps': 8, 'log_interval': 2, 'evaluation.interval': 2, 'checkpoint.interval': 0}
    rates = {'seeds': (0, 1, 2), 'grid.actor_lr': (3e-4, 1e30)}
    training.run(tiny(**small, **steps, **rates), tmp_path)
    assert len(launched) == 4
    assert np.array(launched)[:, :, 0].all()
    assert not np.array(launched)[:, :, 1].all()
