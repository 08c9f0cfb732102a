"""The contract that every method keeps, through whole tiny runs; a new method is tested by its line in the registry."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from flax import serialization
from tiny import tiny

from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import task_of
from spot_jax.core.fields import Field
from spot_jax.methods import METHODS, hyperparameters, options, path_of
from spot_jax.run import config, effects, policy, restore, scoring, training
from spot_jax.run.build import build
from spot_jax.run.evaluations import Evaluations
from spot_jax.run.ring_files import RingFiles
from spot_jax.run.workdir import policy_shapes, read_run
from spot_jax.system.errors import InputError

pytestmark = pytest.mark.usefixtures('data')


def small(name, **changes):
    """A run of a few updates, without evaluations."""
    own = {'hidden_dims': (8,), 'batch_size': 16, 'context': 3, 'num_layers': 1, 'head_dim': 8}
    own |= {'cvae_hidden_dims': (8,), 'cvae_steps': 4, 'behavior_steps': 4, 'critic_steps': 4, 'bc_steps': 4}
    own = {path_of(name, field): value for field, value in own.items() if field in METHODS[name].fields}
    sizes = {} if METHODS[name].at_top else own
    steps = {'offline.steps': 8, 'log_interval': 4, 'checkpoint.interval': 4, 'cvae.steps': 4, 'evaluation.episodes': 0}
    return tiny(**{'method': name, **sizes, **steps, **changes})


def metrics_of(workdir, seed, setting, value):
    """A member's rows of training metrics, numbers alone."""
    rows = csv.DictReader((workdir / 'metrics.csv').open())
    mine = [r for r in rows if (r['phase'], r['seed'], float(r[setting])) == ('offline', str(seed), value)]
    return [{k: float(v) for k, v in row.items() if v and k not in ('phase', 'member')} for row in mine]


# SPOT's own runs are tested at length elsewhere.
@pytest.mark.parametrize('name', [name for name in METHODS if name != 'spot'])
def test_a_population_of_a_method(name, tmp_path):
    """It resumes to the byte; a member is as in a run of its own, and a neighbour that diverges leaves it alone."""
    # Values can run away, and so can weights that decay; a policy alone, whose actions have bounds, does not, while its
    # weights have room to grow: at 1e30 it depends on how the processor rounds.
    rate = 'critic_lr' if 'critic_lr' in hyperparameters(name) else 'actor_lr'
    runs_away = bool({'critic_lr', 'weight_decay'} & set(hyperparameters(name)))
    high, sick = (1e30, 'diverged') if runs_away else (1e3, 'completed')
    changes = {'seeds': (0, 1), f'grid.{rate}': (1e-3, high)}
    assert training.run(small(name, **changes), tmp_path / 'whole') == 0
    results = json.loads((tmp_path / 'whole' / 'results.json').read_text())
    assert [m['status'] for m in results['members']] == ['completed', sick] * 2
    assert results['algorithm'] == METHODS[name].title(options(small(name)))
    assert results['dataset_episodes'] == (1 if name == 'percent_bc' else 10)  # 10% of them

    shutil.copytree(tmp_path / 'whole', tmp_path / 'resumed')  # as if it had been killed in the middle
    (tmp_path / 'resumed' / 'results.json').unlink()
    sorted((tmp_path / 'resumed' / 'checkpoints').iterdir())[-1].unlink()
    assert training.run(small(name, **changes), tmp_path / 'resumed') == 0
    whole, resumed = (tmp_path / run / 'metrics.csv' for run in ('whole', 'resumed'))
    assert whole.read_bytes() == resumed.read_bytes()
    learners = (read_run(tmp_path / run)[1]['learner'] for run in ('whole', 'resumed'))
    jax.tree.map(np.testing.assert_array_equal, *learners)

    assert training.run(small(name, seeds=(1,), **{f'grid.{rate}': (1e-3,)}), tmp_path / 'alone') == 0
    alone, together = (metrics_of(tmp_path / run, 1, rate, 1e-3) for run in ('alone', 'whole'))
    assert [row['gradient_steps'] for row in alone] == [4, 8]
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4, atol=1e-5)

    observations = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    actions = policy.load(tmp_path / 'whole', member=2)(observations)
    assert actions.shape == (3, 2)
    assert (np.abs(actions) <= 1).all()
    assert np.ptp(actions, axis=0).min() > 0  # they follow the observations
    np.testing.assert_allclose(actions, policy.load(tmp_path / 'alone')(observations), rtol=1e-3, atol=1e-4)
    if METHODS[name].density is not None:
        log_prob = scoring.load(tmp_path / 'alone')
        assert np.isfinite(log_prob(observations, actions)).all()
        assert np.all(log_prob(observations, actions) != log_prob(observations, -actions))
    if METHODS[name].restore is not None:  # the stages of the run of several members, for one of them
        state, restored = read_run(tmp_path / 'whole')[1], path_of(name, METHODS[name].restore)
        other = small(name, seeds=(1,), **{f'grid.{rate}': (1e-3,), restored: str(tmp_path / 'whole')})
        stages = build(other, 4, 2).stages
        taken, number = restore.restored_stages(other, config.members(other), stages, state['sha256'])
        assert number == len(stages)
        have, wanted = (config.members(c).groups() for c in (small(name, **changes), other))
        chosen = [have.index(group) for group in wanted]
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[chosen]), taken, state['density_params'])


@pytest.mark.parametrize('name', METHODS)
def test_what_a_method_says_of_itself(name):
    method = METHODS[name]
    parts = build(small(name), 4, 2)
    assert parts.algorithm.block >= 1
    assert len(parts.algorithm.steps) == len(jax.eval_shape(parts.algorithm.init, jax.random.key(0)).__dict__)
    assert all(isinstance(field, Field) for field in method.fields.values())
    for family in method.presets.values():
        for field, value in family.items():
            assert method.fields[field].takes.fits(value), field
    assert set(method.policy_fields).union(*(stage.fields for stage in parts.stages)) <= set(method.fields)
    assert set(method.shared_by + method.cooled) <= set(hyperparameters(name))


@pytest.mark.parametrize('name', METHODS)
def test_an_evaluation_that_was_abandoned_is_played_by_what_the_checkpoint_has(name, monkeypatch):
    """A checkpoint has nested dicts in place of whatever a method's policies are made of."""
    settings = small(name)
    algorithm, shapes = build(settings, 4, 2).algorithm, policy_shapes(settings, (4, 2))
    policies = jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shapes)
    counts = {'alive': np.ones((2, 1), bool), 'gradient_steps': np.zeros((2, 1), np.int32), 'block': np.int32(2)}
    item = {'phase': 'offline', 'step': 2, 'params': policies, 'rows': '[]', **counts}
    found = serialization.msgpack_restore(serialization.to_bytes({'pending': {'0': item}}))
    played = []
    monkeypatch.setattr(Evaluations, '_play', lambda self, params: played.append(params) or (None, 0.0))
    scaling, task = Scaling(np.zeros(4), np.ones(4), -np.ones(2), np.ones(2)), task_of(settings)
    arguments = settings, config.members(settings), None, None, task, algorithm, None, scaling, found
    with Evaluations(*arguments, lambda: shapes) as evaluations:
        evaluations.resume()
    inputs = np.ones((2, 1, 4), np.float32), np.zeros((2, 1)), np.ones((2, 1), bool)
    ours, theirs = (policy.Actors(algorithm, task).play(params, scaling)(*inputs) for params in (policies, *played))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('name', METHODS)
def test_online_or_one_line(name):
    """A method that does not learn online says so before anything starts."""
    block = build(small(name), 4, 2).algorithm.block
    asked = small(name, **{'online.steps': 4 * block})
    if name not in ('spot', 'td3_bc', 'awac', 'cql', 'iql'):
        with pytest.raises(InputError, match=f'{name} does not fine-tune online, as .*: leave it at 0'):
            config.validate(asked)
    else:
        config.validate(asked)


@pytest.mark.parametrize('name', ['iql', 'awac', 'cql', 'td3_bc'])
def test_fine_tuning(name, tmp_path):
    """It goes on from the offline phase, in blocks of one step or two, and stops where it is told."""
    online = {
        'online.steps': 6,
        'offline.steps': 4,
        'evaluation.episodes': 1,
        'log_interval': 2,
        'checkpoint.interval': 0,
    }
    if name == 'cql':
        online |= {'cql.reward_scale': 4.0, 'cql.reward_shift': 0.5}
    assert training.run(small(name, **online), tmp_path) == 0
    rows = RingFiles(tmp_path / 'ring', read_run(tmp_path)[1]['ring_segments']).load((2, 1), 6, 12).rows
    assert set(rows[..., 6].ravel().tolist()) == {-2.0 if name == 'cql' else -1.0}  # rewards, as of the data
    results = json.loads((tmp_path / 'results.json').read_text())
    assert [m['gradient_steps'] for m in results['members']] == [10, 10]
    assert all(np.isfinite(m['regret']) for m in results['members'])
    rows = [row for row in csv.DictReader((tmp_path / 'metrics.csv').open()) if row['phase'] == 'online']
    steps = [int(row['gradient_steps']) for row in rows if row['member'] == '0' and row['training/critic_loss']]
    assert steps == [6, 8, 10]


def test_other_methods_options_have_no_effect():
    changed = ['discount', 'bc.actor_lr', 'td3_bc.alpha', 'grid.tau', 'grid.actor_lr']
    told = effects.without_effect(small('bc'), changed)
    assert told == ['discount, td3_bc.alpha, grid.tau (method is bc)']


def test_what_only_some_methods_read_online():
    changed = ['online.exploration_noise', 'iql.schedule_steps']
    online = {'online.steps': 10, 'iql.schedule_steps': 5}
    assert effects.without_effect(small('td3_bc', **online), changed[:1]) == []
    told = effects.without_effect(small('iql', **online), changed)
    assert told == ['online.exploration_noise (method is iql)', 'iql.schedule_steps (online.steps is given)']


def test_a_schedule_is_that_of_the_offline_phase_and_there_is_none_online(monkeypatch):
    seen = []
    make = lambda options, *sizes: seen.append(options.schedule_steps) or METHODS['bc'].make(small('bc').bc, *sizes)
    monkeypatch.setitem(METHODS, 'iql', METHODS['iql']._replace(make=make))
    for changes in ({}, {'iql.schedule_steps': 5}, {'online.steps': 4, 'iql.schedule_steps': 5}, {'online.steps': 4}):
        build(small('iql', **{'offline.steps': 20, **changes}), 4, 2)
    assert seen == [20, 5, None, None]


def test_words_after_a_preset():
    assert config.read_words('umaze', 'x', ()) == ('umaze', set(), 'spot')
    assert config.read_words(',td3_bc', 'umaze', ()) == ('umaze', set(), 'td3_bc')
    assert config.read_words('umaze,d4rl,bc', 'x', ('d4rl',)) == ('umaze', {'d4rl'}, 'bc')
    with pytest.raises(InputError, match="no option 'sac' of preset 'umaze': choose one of d4rl, spot, bc"):
        config.read_words('umaze,sac', 'x', ('d4rl',))
    with pytest.raises(InputError, match='several methods: bc, td3_bc'):
        config.read_words('umaze,bc,td3_bc', 'x', ())
