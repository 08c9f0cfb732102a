"""The real command, end to end on tiny settings."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import ID, tiny

from spot_jax import evaluate, policy, training
from spot_jax.config import members, validate
from spot_jax.errors import InputError
from spot_jax.main import cli

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


@pytest.mark.parametrize('stop_after', ['cvae', 'offline'])
def test_stopped_and_resumed_is_bit_identical(finished, tmp_path, monkeypatch, stop_after):
    original = training.Run.log

    def log_and_stop(self, phase, state, metrics):
        original(self, phase, state, metrics)
        if phase == stop_after and int(state.block) >= 5:
            self.stop_signal = 15

    monkeypatch.setattr(training.Run, 'log', log_and_stop)
    assert training.run(tiny(), tmp_path) == 143
    assert not (tmp_path / 'results.json').exists()
    monkeypatch.setattr(training.Run, 'log', original)
    with (tmp_path / 'metrics.csv').open('a') as file:
        file.write('what a killed run wrote after its checkpoint\n')
    assert training.run(tiny(), tmp_path) == 0
    assert (tmp_path / 'metrics.csv').read_bytes() == (finished / 'metrics.csv').read_bytes()
    name = sorted(p.name for p in (finished / 'checkpoints').iterdir())[-1]
    ours, theirs = (policy.read_run(w)[1]['learner'] for w in (tmp_path, finished))
    assert name in [p.name for p in (tmp_path / 'checkpoints').iterdir()]
    np.testing.assert_equal(ours, theirs)


def test_damaged_checkpoint_falls_back(finished, tmp_path, capsys):
    training.run(tiny(), tmp_path)
    newest = sorted((tmp_path / 'checkpoints').iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    (tmp_path / 'results.json').unlink()
    assert training.run(tiny(), tmp_path) == 0
    assert 'damaged' in capsys.readouterr().err
    assert (tmp_path / 'metrics.csv').read_bytes() == (finished / 'metrics.csv').read_bytes()


def test_other_config_is_refused(finished):
    with pytest.raises(InputError, match=r'another config.*batch_size'):
        training.run(tiny(batch_size=8), finished)


def test_loaded_policy_acts_within_bounds(finished):
    act = policy.load(finished, member=1)
    actions = act(np.random.default_rng(0).normal(size=(7, 4)))
    assert actions.shape == (7, 2)
    assert np.abs(actions).max() <= 1
    with pytest.raises(InputError, match='no member 2'):
        policy.load(finished, member=2)


def test_members_and_grid():
    config = tiny(**{'grid.regularizer_weight': (0.1, 0.2), 'grid.beta': (0.5, 1.0)})
    found = [(m.seed, m.hyperparameters['beta'], m.hyperparameters['regularizer_weight']) for m in members(config)]
    assert found[:4] == [(0, 0.5, 0.1), (0, 0.5, 0.2), (0, 1.0, 0.1), (0, 1.0, 0.2)]
    assert len(found) == 8


def test_bad_values_name_the_field():
    with pytest.raises(InputError, match=r'regularizer.name.*none, bc, support'):
        validate(tiny(**{'regularizer.name': 'suport'}))
    with pytest.raises(InputError, match='multiple of policy_freq'):
        validate(tiny(**{'offline.steps': 41}))


def test_command_line_without_config(capsys):
    assert cli(['main']) == 2
    assert capsys.readouterr().err == 'error: --config=FILE.py[:PRESET] and --workdir=DIR are needed\n'


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
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert words in done.stderr
    assert not (tmp_path / 'run').exists()
