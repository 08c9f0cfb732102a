"""The real command, end to end on tiny settings."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from tiny import ID, tiny

from spot_jax import evaluate
from spot_jax.core.networks import CVAE, Actor
from spot_jax.methods import density
from spot_jax.population import program
from spot_jax.run import policy, scoring, training
from spot_jax.run.config import members, validate
from spot_jax.run.evaluations import Evaluations
from spot_jax.run.jobs import Job, is_finished
from spot_jax.run.workdir import read_run
from spot_jax.storage.folder import read_rows
from spot_jax.system import backend
from spot_jax.system.errors import InputError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures('data')


def test_results(finished):
    results = json.loads((finished / 'results.json').read_text())
    assert results['dataset_id'] == ID
    assert results['algorithm'] == 'SPOT'
    assert [m['seed'] for m in results['members']] == [0, 1]
    for m in results['members']:
        assert (m['status'], m['gradient_steps']) == ('completed', 40)
        assert len(m['evaluation']['returns']) == 2
        assert m['evaluation']['normalized_score'] is None
    rows = (finished / 'metrics.csv').read_text().splitlines()
    assert len(rows) == 1 + 2 * (2 + 4 + 2)  # header; per member: CVAE, policy and evaluation rows


def assert_same_run(workdir, other):
    """Metrics to the byte, every array of the newest checkpoints to the bit."""
    assert (workdir / 'metrics.csv').read_bytes() == (other / 'metrics.csv').read_bytes()
    (_, ours), (_, theirs) = read_run(workdir), read_run(other)
    for name in ('learner', 'density_params', 'episodes', 'gradient_steps', 'metrics_position'):
        np.testing.assert_equal(ours[name], theirs[name])


@pytest.mark.parametrize('stop_after', ['cvae', 'offline'])
def test_stopped_and_resumed_is_bit_identical(finished, tmp_path, monkeypatch, stop_after):
    original = training.results.training_rows

    def stop(population, phase, state, metrics):
        if phase == stop_after and int(state.block) >= 5:
            signal.raise_signal(signal.SIGTERM)
        return original(population, phase, state, metrics)

    monkeypatch.setattr(training.results, 'training_rows', stop)
    assert training.run(tiny(), tmp_path) == 143
    assert not (tmp_path / 'results.json').exists()
    monkeypatch.setattr(training.results, 'training_rows', original)
    with (tmp_path / 'metrics.csv').open('a') as file:
        file.write('what a killed run wrote after its checkpoint\n')
    assert training.run(tiny(), tmp_path) == 0
    assert_same_run(tmp_path, finished)


def test_a_finished_run_goes_on_to_more_steps(finished, tmp_path):
    assert training.run(tiny(**{'offline.steps': 20}), tmp_path) == 0
    assert training.run(tiny(), tmp_path) == 0
    assert_same_run(tmp_path, finished)
    assert read_run(tmp_path)[0]['offline']['steps'] == 40
    with pytest.raises(InputError, match=r'another config.*offline'):
        training.run(tiny(**{'offline.steps': 20}), tmp_path)


def test_lengths_that_no_interval_divides(data, tmp_path, monkeypatch):
    """Rows and evaluations come where they are due; a run made longer goes on there, and to its own end."""
    lengths = []
    original = program.policy_phase

    def counting(algorithm, num_steps, **options):
        lengths.append(num_steps)
        return original(algorithm, num_steps, **options)

    monkeypatch.setattr(program, 'policy_phase', counting)
    settings = {'evaluation.interval': 30, 'checkpoint.interval': 0, 'log_interval': 20}
    assert training.run(tiny(**settings, **{'offline.steps': 14}), tmp_path / 'longer') == 0
    assert read_run(tmp_path / 'longer')[1]['block'] == 7
    assert training.run(tiny(**settings, **{'offline.steps': 52}), tmp_path / 'longer') == 0
    assert training.run(tiny(**settings, **{'offline.steps': 52}), tmp_path / 'once') == 0
    assert lengths == [14, 6, 10, 2, 10, 2]  # each compiled once; 20 and 30 are multiples of ten
    runs = [read_run(tmp_path / name)[1] for name in ('longer', 'once')]
    assert [run['block'] for run in runs] == [26, 26]
    for a, b in zip(*(jax.tree.leaves(run['learner']) for run in runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)  # other programs, which round otherwise
    found = []
    for name in ('longer', 'once'):
        mine = [row for row in read_rows(tmp_path / name) if row['phase'] == 'offline' and row['member'] == '0']
        found.append([(row['gradient_steps'], bool(row['evaluation/return'])) for row in mine])
    rest = [('20', False), ('30', True), ('40', False), ('52', False), ('52', True)]
    assert found == [[('14', False), ('14', True), *rest], rest]


def test_the_mean_of_metrics_is_of_steps():
    parts = [(30, {'a': jnp.array([1.0, 2.0])}), (10, {'a': jnp.array([5.0, 2.0])})]
    np.testing.assert_array_equal(training._mean(parts)['a'], [2.0, 2.0])


def command_line(workdir, **changes):
    """The command of `tiny` settings."""
    flat = {
        'seeds': '0,1',
        'batch_size': 16,
        'log_interval': 100,
        'cvae.steps': 200,
        'cvae.hidden_dims': '(8,)',
        'offline.steps': 1000,
        'evaluation.interval': 500,
        'evaluation.episodes': 2,
        'checkpoint.interval': 200,
        **changes,
    }
    options = [f'--config.{name}={value}' for name, value in flat.items()]
    return [
        sys.executable,
        '-m',
        'spot_jax.main',
        '--config=tests/nearby.py',
        f'--workdir={workdir}',
        *options,
    ]


def test_killed_and_started_again_is_bit_identical(tmp_path):
    """A real process, SIGKILL at moments of the policies' training and of the CVAEs'."""
    start = lambda workdir: subprocess.Popen(
        command_line(workdir, **{'evaluation.workers': 0}), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    for lines in (3, 15):
        process = start(killed)
        while not (killed / 'metrics.csv').exists() or (killed / 'metrics.csv').read_bytes().count(b'\n') < lines:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not (killed / 'results.json').exists()
    assert [start(w).wait() for w in (killed, whole)] == [0, 0]
    assert_same_run(killed, whole)


def test_cvae_of_another_run(finished, tmp_path):
    again = tmp_path / 'again'
    assert training.run(tiny(**{'cvae.restore': str(finished)}), again) == 0
    np.testing.assert_equal(read_run(again)[1]['learner'], read_run(finished)[1]['learner'])
    assert 'cvae' not in json.loads((again / 'results.json').read_text())['wall_clock_s']
    one = tiny(**{'cvae.restore': str(finished), 'seeds': (1,), 'regularizer.weight': 1.0})
    assert training.run(one, tmp_path / 'one') == 0
    theirs, ours = (read_run(w)[1]['density_params'] for w in (finished, tmp_path / 'one'))
    np.testing.assert_equal(ours, jax.tree.map(lambda x: x[1:], theirs))
    for changes, message in (
        ({'seeds': (1, 2)}, 'no CVAE of seed 2, beta 0.5'),
        ({'cvae.hidden_dims': (9,)}, 'hidden_dims'),
        ({'normalize_observations': True}, 'normalize_observations'),
        ({'cvae.restore': str(tmp_path)}, 'is no run'),
    ):
        with pytest.raises(InputError, match=message):
            training.run(tiny(**{'cvae.restore': str(finished), **changes}), tmp_path / 'bad')
        assert not (tmp_path / 'bad').exists()


def test_all_diverged(tmp_path, capsys):
    """Status 3, with a checkpoint, an evaluation of what was reached, and no more rows after it happened."""
    assert training.run(tiny(**{'critic.lr': 1e9}), tmp_path) == 3
    results = json.loads((tmp_path / 'results.json').read_text())
    assert [m['status'] for m in results['members']] == ['diverged', 'diverged']
    assert all(m['gradient_steps'] < 40 for m in results['members'])
    assert 'member 1 has diverged' in capsys.readouterr().out
    before = (tmp_path / 'metrics.csv').read_bytes()
    assert training.run(tiny(**{'critic.lr': 1e9}), tmp_path) == 3
    assert (tmp_path / 'metrics.csv').read_bytes() == before


def test_a_diverged_cvae_takes_its_policies_with_it(tmp_path):
    """At β = 1e30 the second moments overflow, without a loss that tells of it."""
    config = tiny(**{'seeds': (0,), 'grid.beta': (0.5, 1e30)})
    assert training.run(config, tmp_path / 'one') == 0
    results = json.loads((tmp_path / 'one' / 'results.json').read_text())
    assert [(m['status'], m['stages'], m['gradient_steps']) for m in results['members']] == [
        ('completed', 'completed', 40),
        ('diverged', 'diverged', 0),
    ]
    assert training.run(config, tmp_path / 'one') == 0  # resumed, it knows
    assert json.loads((tmp_path / 'one' / 'results.json').read_text())['members'] == results['members']
    with pytest.raises(InputError, match=r'cvae.restore=.*its CVAE of seed 0, beta 1e\+30 has diverged'):
        training.run(
            tiny(**{'seeds': (0,), 'grid.beta': (0.5, 1e30), 'cvae.restore': str(tmp_path / 'one')}), tmp_path / 'x'
        )
    with pytest.raises(InputError, match=r'the CVAE of member 1 .* has diverged'):
        scoring.load(tmp_path / 'one', member=1)
    assert training.run(tiny(**{'cvae.lr': 1e30}), tmp_path / 'all') == 3


def test_a_disk_that_fills_up(finished, tmp_path, monkeypatch):
    """One line that names the file, nothing half-written, and with room again the run ends as if nothing had been."""
    original, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(InputError, match=r'^cannot write .*: No space left on device$'):
        training.run(tiny(), tmp_path)
    monkeypatch.setattr(os, 'fsync', original)
    assert not list(tmp_path.rglob('.*'))
    assert len(list((tmp_path / 'checkpoints').iterdir())) == 2
    assert training.run(tiny(), tmp_path) == 0
    assert_same_run(tmp_path, finished)


def test_no_device_and_no_cache_are_a_line_each(tmp_path):
    command = [*command_line(tmp_path / 'run'), '--config.offline.steps=2']
    for extra, status, words in (
        ({'JAX_PLATFORMS': 'cuda', 'CUDA_VISIBLE_DEVICES': ''}, 2, 'JAX cannot use a device of JAX_PLATFORMS=cuda'),
        ({'JAX_COMPILATION_CACHE_DIR': '/dev/null'}, 2, 'compiled programs are not kept'),
    ):
        environment = {**os.environ, 'MINARI_DATASETS_PATH': '/dev/null', **extra}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)
        assert done.returncode == status
        assert words in done.stderr.splitlines()[0]
        assert len(done.stderr.splitlines()) <= 2
        assert not (tmp_path / 'run').exists()


def test_damaged_checkpoint_falls_back(finished, tmp_path, capsys):
    training.run(tiny(), tmp_path)
    newest = sorted((tmp_path / 'checkpoints').iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    (tmp_path / 'results.json').unlink()
    assert training.run(tiny(), tmp_path) == 0
    assert 'damaged' in capsys.readouterr().err
    assert (tmp_path / 'metrics.csv').read_bytes() == (finished / 'metrics.csv').read_bytes()


def test_what_a_run_does_not_read_may_change(finished, tmp_path):
    """As the settings of other methods do from one version of a config file to the next."""
    others = {'bear.mmd_threshold': 0.3, 'grid.temperature': (1.0, 2.0), 'online.capacity': 1000}
    training.run(tiny(**{'offline.steps': 20}), tmp_path)
    assert not is_finished(Job('', [], tiny(), tmp_path))
    training.run(tiny(**others), tmp_path)
    assert_same_run(tmp_path, finished)
    assert read_run(tmp_path)[0]['bear']['mmd_threshold'] == 0.3
    assert is_finished(Job('', [], tiny(), tmp_path))
    assert not is_finished(Job('', [], tiny(batch_size=8), tmp_path))


def test_other_config_is_refused(finished):
    with pytest.raises(InputError, match=r'another config.*batch_size'):
        training.run(tiny(batch_size=8), finished)


def test_loaded_policy_acts_within_bounds(finished):
    observations = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    actions = policy.load(finished, member=1)(observations)
    assert np.abs(actions).max() <= 1
    params = jax.tree.map(lambda x: x[1, 0], read_run(finished)[1]['learner']['actor']['params'])
    np.testing.assert_allclose(actions, Actor(2).apply(params, observations), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match='no member 2'):
        policy.load(finished, member=2)


def test_actions_scored_by_a_run(finished):
    _, state = read_run(finished)
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(7, 4)).astype(np.float32), rng.uniform(-1, 1, (7, 2)).astype(np.float32)
    for name, estimate in density.ESTIMATORS.items():
        scores = scoring.load(finished, member=1, estimator=name, num_samples=3)(observations, actions)
        params = jax.tree.map(lambda x: x[1], state['density_params'])
        noise = jax.random.normal(jax.random.key(0), (7, 3, 4))
        expected = estimate(CVAE(2, (8,)), params, observations, actions, noise, 0.5)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    for arguments in ({'member': 2}, {'estimator': 'exact'}):
        with pytest.raises(InputError, match=r'no member 2|no estimator'):
            scoring.load(finished, **arguments)


def test_members_and_grid():
    config = tiny(**{'grid.regularizer_weight': (0.1, 0.2), 'grid.beta': (0.5, 1.0)})
    found = [
        (m.seed, m.hyperparameters['beta'], m.hyperparameters['regularizer_weight']) for m in members(config).members
    ]
    assert found[:4] == [(0, 0.5, 0.1), (0, 0.5, 0.2), (0, 1.0, 0.1), (0, 1.0, 0.2)]
    assert len(found) == 8


def test_bad_values_name_the_field():
    with pytest.raises(InputError, match=r'regularizer.name.*none, bc, support'):
        validate(tiny(**{'regularizer.name': 'suport'}))
    with pytest.raises(InputError, match='multiple of policy_freq'):
        validate(tiny(**{'offline.steps': 41}))
    for changes, words in (
        ({'seeds': ('a',)}, r"config.seeds=\('a',\): must be A,B,.* each a whole number from 0 to 4294967295"),
        ({'seeds': (-1,)}, 'config.seeds'),
        ({'grid.discount': ('x', 0.9)}, r'config.grid.discount=.* each a number from 0 to 1, none of them twice$'),
        ({'part': (0,)}, 'config.part=.* of 2 values'),
        ({'part': (2, 2)}, 'of 2 parts, numbered from 0, there is no number 2'),
        ({'offline.steps': 10**8, 'online.steps': 10**8, 'online.updates_per_step': 100}, 'at most 2147483647'),
    ):
        with pytest.raises(InputError, match=words):
            validate(tiny(**changes))


def test_evaluate_again(finished, capsys):
    assert evaluate.main([str(finished), '--episodes=2', '--seed=10000']) == 0
    results = json.loads((finished / 'results.json').read_text())
    returns = [np.mean(m['evaluation']['returns']) for m in results['members']]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(',')[0] for line in lines] == [f'member {k}: return {r:.2f}' for k, r in enumerate(returns)]
    assert evaluate.main([str(finished / 'nothing')]) == 2


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--config=experiments/none.py'], 'experiments/none.py'),
        (['--config=experiments/pointmaze.py:nope'], 'choose one of umaze, medium, large'),
        (['--config=experiments/pointmaze.py', '--config.batchsize=3'], 'Did you mean "batch_size"'),
        (['--config=experiments/pointmaze.py', '--config.batch_size=x'], "'x'"),
    ],
)
def test_bad_command_is_one_line_and_status_2(arguments, words, tmp_path):
    command = [sys.executable, '-m', 'spot_jax.main', *arguments, f'--workdir={tmp_path / "run"}']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert words in done.stderr
    assert not (tmp_path / 'run').exists()


def test_dataset_without_environment_is_trained_on(tmp_path, capsys):
    rng = np.random.default_rng(0)
    episodes = [
        EpisodeBuffer(
            observations=rng.normal(size=(11, 3)).astype(np.float32),
            actions=rng.uniform(-1, 1, (10, 2)).astype(np.float32),
            rewards=rng.normal(size=10),
            terminations=np.arange(10) == 9,
            truncations=np.zeros(10, bool),
        )
        for _ in range(4)
    ]
    spaces = {'observation_space': Box(-np.inf, np.inf, (3,)), 'action_space': Box(-1, 1, (2,))}
    minari.create_dataset_from_buffers('toy/main-v0', episodes, **spaces)
    config = tiny(**{'dataset_id': 'toy/main-v0', 'task': 'locomotion', 'normalize_observations': True})
    assert training.run(config, tmp_path) == 0
    assert 'not evaluated' in capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['environment_id'] is None
    nothing = {'returns': None, 'lengths': None, 'success_rate': None, 'normalized_score': None}
    assert [m['evaluation'] for m in results['members']] == [nothing, nothing]
    assert evaluate.main([str(tmp_path)]) == 2
    assert 'names no environment' in capsys.readouterr().err
    act = policy.load(tmp_path)
    stored = read_run(tmp_path)[1]['scaling']
    observations = np.concatenate([e.observations[:-1] for e in episodes])
    np.testing.assert_allclose(stored['mean'], observations.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored['std'], observations.std(axis=0) + 1e-3, rtol=1e-4)
    learned = jax.tree.map(lambda x: x[0, 0], read_run(tmp_path)[1]['learner']['actor']['params'])
    seen = (observations[:5] - observations.mean(axis=0)) / (observations.std(axis=0) + 1e-3)
    np.testing.assert_allclose(act(observations[:5]), Actor(2).apply(learned, seen), rtol=1e-4, atol=1e-5)


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write in --workdir'):
        training.run(tiny(), tmp_path / 'file' / 'run')


def test_every_checkpoint_damaged(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'run')
    for path in (tmp_path / 'run' / 'checkpoints').iterdir():
        path.write_bytes(b'')
    with pytest.raises(InputError, match='every checkpoint'):
        training.run(tiny(), tmp_path / 'run')


@pytest.mark.usefixtures('data')
def test_on_one_core_training_waits_for_each_evaluation(finished, tmp_path, monkeypatch):
    """Its policies' answers would wait for the training's turns; the bytes are the same."""
    in_flight, launch = [], Evaluations.launch

    def spy(self, *arguments):
        launch(self, *arguments)
        in_flight.append(len(self._pending))

    monkeypatch.setattr(Evaluations, 'launch', spy)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0}, raising=False)
    assert backend.has_one_core()
    assert training.run(tiny(**{'evaluation.workers': 1}), tmp_path) == 0
    assert set(in_flight) == {0}
    assert_same_run(tmp_path, finished)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 1}, raising=False)
    assert not backend.has_one_core()
