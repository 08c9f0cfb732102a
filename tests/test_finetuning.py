"""Online fine-tuning as a run: against a loop written by hand, stopped and resumed, from another run, refused."""

import csv
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from one_member import of_spot
from tiny import ID, tiny

from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS
from spot_jax.core.train_state import init_adam
from spot_jax.core.types import unpack
from spot_jax.data.load import load
from spot_jax.methods import spot
from spot_jax.population import online, program
from spot_jax.run import jobs, restore, training
from spot_jax.run.ring_files import RingFiles
from spot_jax.run.workdir import read_run
from spot_jax.storage import folder
from spot_jax.system.errors import InputError


def successes(workdir, seed):
    """Success rates of the online phase's evaluations, from metrics.csv."""
    rows = csv.DictReader((workdir / 'metrics.csv').open())
    mine = [row for row in rows if row['phase'] == 'online' and row['seed'] == str(seed)]
    return [float(row['evaluation/success_rate']) for row in mine if row['evaluation/success_rate']]


CHANGES = {'online.steps': 40, 'online.cooling_steps': 40}

OTHERWISE = {
    'online.keep_offline': False,
    'online.reset_optimizers': True,
    'online.discount': 0.9,
    'online.exploration_noise': 0.5,
    'online.cooling_steps': 0,
    'online.updates_per_step': 2,
    'online.warmup_steps': 6,
}


def by_hand(config, saved):
    """What fine-tuning comes to from the checkpoint `saved` of a run of one member: its learner and its transitions.

    One environment, a list as the buffer; each block of two steps is taken with the policy from before the updates on
    the block before it.
    """
    o, seed, dataset = config.online, config.seeds[0], load(ID, TASKS['pointmaze'])
    spec = spot.make_spec(config, dataset.observation_dim, dataset.action_dim)
    fresh = program.init_policies(jnp.array([seed], jnp.uint32), 1, spot.algorithm(spec)).learner
    learner = jax.tree.map(lambda x: jnp.asarray(x[0, 0]), serialization.from_state_dict(fresh, saved['learner']))
    density = jax.tree.map(lambda x: jnp.asarray(x[0]), saved['density_params'])
    if o.reset_optimizers:
        learner = spot.TD3State(*(s.replace(opt_state=init_adam(s.params)) for s in (learner.actor, learner.critic)))
    explore_key, train_key = (
        jax.random.fold_in(jax.random.key(seed), s) for s in (online.EXPLORE, online.ONLINE_TRAIN)
    )
    env = environments.make(dataset.environment, TASKS['pointmaze'])
    start = lambda step: env.reset(seed=int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))[0]
    observation = start(0)
    old = list(np.asarray(dataset.transitions)) if o.keep_offline else []
    new, acting, blocks, update = [], learner.actor.params, 0, jax.jit(spot.update, static_argnums=1)
    for step in range(1, o.steps + 1):
        noise = jax.random.normal(jax.random.fold_in(explore_key, step - 1), (1, 2))[0]
        action = np.clip(spec.td3.actor.apply(acting, observation) + o.exploration_noise * noise, -1, 1)
        successor, reward, terminated, truncated, _ = env.step(np.asarray(action))
        new.append([*observation, *action, 0 if reward else -1, 0 if reward else 1, *successor])
        observation = start(step) if terminated or truncated else successor
        if step % 2:
            continue
        acting = learner.actor.params
        for _ in range(o.updates_per_step if step > o.warmup_steps else 0):
            sample_key, noise_key = jax.random.split(jax.random.fold_in(train_key, blocks))
            keys = [jax.random.split(key)[0 if o.keep_offline else 1] for key in jax.random.split(sample_key, 2)]
            sizes = len(old) + step - 1, len(old) + step  # what was there after each of the two steps
            indices = [jax.random.randint(key, (16,), 0, size) for key, size in zip(keys, sizes, strict=True)]
            minibatches = unpack(jnp.asarray(np.array(old + new, np.float32)[np.array(indices)]), 4, 2)
            weight = 0.1 * max(0.2, 1 - step / o.cooling_steps) if o.cooling_steps else 0.1
            draws = spot.draw_noise(noise_key, spec.td3, 16)
            hypers = of_spot(regularizer_weight=weight, discount=o.discount or 0.99)
            learner, _ = update(learner, spec.td3, density, minibatches, draws, hypers)
            blocks += 1
    env.close()
    return learner, np.array(new), blocks


@pytest.fixture(scope='module')
def offline(data, tmp_path_factory):
    """A run of one member, to be fine-tuned from."""
    workdir = tmp_path_factory.mktemp('offline')
    assert training.run(tiny(seeds=(3,)), workdir) == 0
    return workdir


@pytest.mark.parametrize('changes', [{'online.cooling_steps': 20}, OTHERWISE], ids=['defaults', 'all_else'])
def test_one_member_equals_a_loop_written_by_hand(offline, tmp_path, changes):
    """Transitions to 1e-5, parameters and optimisers to 1e-4: by hand, each update is a program of its own."""
    workdir = tmp_path / 'online'
    config = tiny(seeds=(3,), **{'online.steps': 24, 'online.restore': str(offline), **changes})
    assert training.run(config, workdir) == 0
    learner, transitions, blocks = by_hand(config, read_run(offline)[1])
    got = read_run(workdir)[1]
    assert got['block'] == blocks == (18 if 'online.warmup_steps' in changes else 12)
    ring = RingFiles(workdir / 'ring', got['ring_segments']).load((1, 1), 24, transitions.shape[1])
    assert ring.count == 24
    np.testing.assert_allclose(ring.rows[0, 0], transitions, rtol=1e-5, atol=1e-5)
    expected = serialization.to_state_dict(learner)
    for a, b in zip(jax.tree.leaves(got['learner']), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[0, 0], b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures('data')
def test_both_phases_in_one_run_and_apart(finished, tmp_path, monkeypatch, capsys):
    together, apart = tmp_path / 'together', tmp_path / 'apart'
    original = training.results.training_rows

    def stop(population, phase, state, metrics):
        if phase == 'online' and int(state.block) == 10:
            signal.raise_signal(signal.SIGTERM)
        return original(population, phase, state, metrics)

    monkeypatch.setattr(training.results, 'training_rows', stop)
    assert training.run(tiny(**CHANGES), together) == 143
    saved = read_run(together)[1]['ring_segments']
    assert saved.tolist() == [[0, 10], [10, 20]]
    earlier = RingFiles(together / 'ring', saved).load((2, 1), 40, 12)
    monkeypatch.setattr(training.results, 'training_rows', original)
    assert training.run(tiny(**CHANGES), together) == 0
    saved = read_run(together)[1]['ring_segments']
    assert saved.tolist() == [[0, 10], [10, 20], [20, 30], [30, 40]]
    ring = RingFiles(together / 'ring', saved).load((2, 1), 40, 12)
    np.testing.assert_array_equal(ring.rows[:, :, :20], earlier.rows[:, :, :20])
    assert (np.abs(ring.rows[..., :2]).max(axis=-1) > 0).all()
    with pytest.raises(InputError, match='past its offline phase'):
        training.run(tiny(**CHANGES, **{'offline.steps': 80}), together)
    results = json.loads((together / 'results.json').read_text())
    before = json.loads((finished / 'results.json').read_text())
    for member, earlier in zip(results['members'], before['members'], strict=True):
        assert member['offline'] == earlier['evaluation']
        assert member['online'] == member['evaluation']
        assert member['gradient_steps'] == 80
        assert member['regret'] == 1 - np.mean(successes(together, member['seed']))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[-2:] == [f'{member["offline"]["success_rate"]:.2f}', f'{member["regret"]:.2f}']
    rows = [line.split(',')[:2] for line in (together / 'metrics.csv').read_text().splitlines()]
    steps = sorted({int(step) for phase, step in rows if phase == 'online'})
    assert steps == [40, 50, 60, 70, 80]
    assert sum(phase == 'offline' for phase, _ in rows) == 2 * (4 + 2)  # that phase was not done again

    assert training.run(tiny(**{**CHANGES, 'online.steps': 50}), together) == 0  # goes on to more steps
    longer = RingFiles(together / 'ring', read_run(together)[1]['ring_segments']).load((2, 1), 50, 12)
    assert longer.count == 50
    np.testing.assert_array_equal(longer.rows[:, :, :40], ring.rows)

    assert training.run(tiny(**CHANGES, **{'online.restore': str(finished), 'seeds': (7,)}), apart) == 0
    results = json.loads((apart / 'results.json').read_text())
    assert [m['seed'] for m in results['members']] == [0, 1]  # the population it goes on from
    assert set(results['wall_clock_s']) == {'online', 'evaluation'}
    assert [m['offline'] for m in results['members']] == [m['evaluation'] for m in before['members']]


@pytest.mark.usefixtures('data')
def test_a_part_goes_on_from_its_members_alone(finished, tmp_path):
    config = tiny(part=(1, 2), **{'online.restore': str(finished), 'seeds': (0, 1)})
    job_spec = spot.make_spec(config, 4, 2)
    fresh = program.init_policies(jnp.array([1], jnp.uint32), 1, spot.algorithm(job_spec))
    saved = read_run(finished)[1]
    state, cvaes, _ = restore.restored_policies(config, saved['sha256'], fresh, spot.stages(job_spec))
    second = lambda tree: jax.tree.map(lambda x: x[1:], tree)
    np.testing.assert_equal(serialization.to_state_dict(jax.device_get(state.learner)), second(saved['learner']))
    np.testing.assert_equal(jax.device_get(cvaes), second(saved['density_params']))
    changes = {'online.restore': str(finished), 'seeds': (5,)}  # of the two members, this one's seeds tell nothing
    config = tiny(**CHANGES, part=(1, 2), **changes)
    assert training.run(config, tmp_path / 'part') == 0
    assert config.seeds == (5,)
    (member,) = json.loads((tmp_path / 'part' / 'results.json').read_text())['members']
    assert (member['seed'], member['gradient_steps']) == (1, 80)
    whole = tiny(**CHANGES, **{'online.restore': str(tmp_path / 'part')})
    with pytest.raises(InputError, match=r'has no members \[0\]: it is a part'):
        training.run(whole, tmp_path / 'bad')


@pytest.mark.parametrize('restore', ['online.restore', 'cvae.restore'])
def test_a_run_that_has_begun_needs_the_other_no_more(finished, tmp_path, restore):
    source = shutil.copytree(finished, tmp_path / 'source')
    phase = restore.replace('cvae', 'offline').replace('restore', 'steps')
    assert training.run(tiny(**{restore: str(source), phase: 10}), tmp_path / 'run') == 0
    shutil.rmtree(source)
    assert training.run(tiny(**{restore: str(source), phase: 20}), tmp_path / 'run') == 0
    assert read_run(tmp_path / 'run')[1]['block'] == 10
    with pytest.raises(InputError, match='source is no run'):
        training.run(tiny(**{restore: str(source), phase: 20}), tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


@pytest.mark.usefixtures('data')
def test_results_of_a_run_that_is_made_longer_are_gone(offline, tmp_path, monkeypatch):
    """Else they would be taken for the longer run's, which has not come to its end."""
    workdir = shutil.copytree(offline, tmp_path / 'run')
    config = tiny(seeds=(3,), **{'offline.steps': 60})
    original = training.results.training_rows

    def stop(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.results, 'training_rows', stop)
        assert training.run(config, workdir) == 143
    assert not (workdir / 'results.json').exists()
    assert not jobs.is_finished(jobs.Job('run', [], config, workdir))
    assert training.run(config, workdir) == 0
    assert jobs.is_finished(jobs.Job('run', [], config, workdir))


@pytest.mark.usefixtures('data')
def test_a_run_of_its_own_does_not_become_one_that_goes_on(finished, tmp_path):
    """It would go on from its own policies, and its config would say from others'."""
    changes = {'online.restore': str(finished), 'offline.steps': 20}
    assert training.run(tiny(**changes), tmp_path / 'run') == 0
    with pytest.raises(InputError, match=r'another config .differs in online.steps'):
        training.run(tiny(**changes, **{'online.steps': 4}), tmp_path / 'run')


@pytest.mark.usefixtures('data')
def test_other_members_than_a_run_began_with(offline, finished, tmp_path):
    source = tmp_path / 'source'
    shutil.copytree(offline, source)
    config = tiny(**{'online.restore': str(source), 'online.steps': 4})
    folder.begin(restore.with_population(config, tmp_path / 'run'), tmp_path / 'run')  # and killed
    shutil.rmtree(source)
    shutil.copytree(finished, source)
    with pytest.raises(InputError, match='source has other members than this run began with'):
        training.run(config, tmp_path / 'run')


@pytest.mark.usefixtures('data')
def test_how_far_a_run_is_that_goes_on_from_another(offline, tmp_path):
    config = tiny(**{'online.steps': 20, 'online.restore': str(offline), 'online.updates_per_step': 2})
    job = jobs.Job('run', [], config, tmp_path / 'run')
    assert (jobs.total(job), jobs.done(job), jobs.is_finished(job)) == (40, 0, False)
    assert training.run(config, job.workdir) == 0
    assert (jobs.total(job), jobs.done(job), jobs.is_finished(job)) == (40, 40, True)
    config.evaluation.episodes = 0
    job = job._replace(workdir=tmp_path / 'unseen')
    assert training.run(config, job.workdir) == 0
    assert jobs.done(job) == 40


@pytest.mark.usefixtures('data')
def test_what_does_not_fit_is_refused(finished, tmp_path):
    for changes, message in (
        ({'actor.hidden_dims': (8,)}, 'hidden_dims'),
        ({'online.restore': str(tmp_path)}, 'is no run'),
        ({'online.offline_share': 1.5}, 'offline_share'),
        ({'online.capacity': 1}, 'online.capacity=1: must be at least 2'),
    ):
        with pytest.raises(InputError, match=message):
            training.run(tiny(**{**CHANGES, 'online.restore': str(finished), **changes}), tmp_path / 'bad')
        assert not (tmp_path / 'bad').exists()
    assert load(ID, TASKS['pointmaze']).environment is not None
