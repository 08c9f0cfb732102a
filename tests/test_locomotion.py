"""Locomotion sets made on the spot: the same whatever the number of processes, labelled, and ready to train on."""

import pickle

import minari
import numpy as np
import pytest

from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS
from spot_jax.behavior import policy as policies
from spot_jax.behavior import settings, training
from spot_jax.core.types import unpack
from spot_jax.data.load import load
from spot_jax.datasets.__main__ import main
from spot_jax.recipes import RECIPES, generate, locomotion, parallel
from spot_jax.system.errors import InputError

TASK = TASKS['locomotion']


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))


def make(kind, transitions, **options):
    name = f'spot_jax/hopper/{kind}-v0'
    generate(name, transitions, overwrite=True, **options)
    return load(name, TASK)


def test_one_and_two_workers_give_the_same_data_and_halves_are_those_of_their_sets():
    mixed = make('medium-expert', 1501, seed=3, workers=2)
    assert len(mixed.transitions) == 1501
    assert make('medium-expert', 1501, seed=3, workers=1).sha256 == mixed.sha256
    halves = [make('medium', 750, seed=3).transitions, make('expert', 751, seed=3).transitions]
    np.testing.assert_array_equal(np.concatenate(halves), mixed.transitions)
    assert make('medium', 750, seed=4).sha256 != make('medium', 750, seed=3).sha256


def test_a_generated_set_is_labelled_and_fits_its_environment(capsys):
    data = make('random', 500, workers=1)
    assert data.environment.id == 'Hopper-v5'
    env = environments.make(data.environment, TASK)
    environments.check(env, data.transitions, data.action_low, data.action_high)
    rows = unpack(data.transitions, 11, 3)
    assert 5 < (rows.masks == 0).sum() < 60  # a random hopper falls after about 20 steps
    assert abs(rows.actions.mean()) < 0.1
    assert rows.actions.std() == pytest.approx(3**-0.5, abs=0.03)  # uniform
    metadata = minari.load_dataset(data.dataset_id).storage.metadata
    assert (metadata['ref_min_score'], metadata['ref_max_score']) == (-20.272305, 3234.3)
    assert 'not D4RL data' in metadata['description']
    assert main(['show', data.dataset_id]) == 0
    assert 'made by: spot_jax: uniform actions' in capsys.readouterr().out


def interrupted_after(calls, function):
    """The function, but stopped as by Ctrl-C when it is called once more."""
    left = [calls]

    def wrapper(*args, **options):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return function(*args, **options)

    return wrapper


def test_an_interrupted_generation_goes_on_with_the_same_data(monkeypatch, tmp_path, capsys):
    whole = make('medium', 2500, seed=3, workers=2)
    monkeypatch.setattr(parallel, 'PART', 300)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, 'cut', interrupted_after(3, parallel.cut))
        assert main(['generate', whole.dataset_id, '--transitions=2500', '--seed=3', '--overwrite']) == 130
    assert capsys.readouterr().err == 'stopped\n'
    assert load(whole.dataset_id, TASK).sha256 == whole.sha256  # what was there is untouched
    assert sum(path.name.startswith('.') for path in tmp_path.iterdir()) == 1  # the parts
    numbers = []
    play = parallel._played
    monkeypatch.setattr(
        parallel, '_played', lambda play_, number, *rest: numbers.append(number) or play(play_, number, *rest)
    )
    assert make('medium', 2500, seed=3, workers=1).sha256 == whole.sha256
    assert numbers[0] > 0
    assert not any(path.name.startswith('.') for path in tmp_path.iterdir())


@pytest.fixture
def tiny(monkeypatch):
    """A training of hopper that is medium at once."""
    monkeypatch.setattr(settings, 'MEDIUM_SHARES', (1e-4, 1))
    tiny = settings.SETTINGS['hopper']._replace(
        rounds=4, warmup_steps=128, capacity=2000, batch_size=16, hidden_dims=(8,), medium_interval=256
    )
    monkeypatch.setitem(settings.SETTINGS, 'hopper', tiny)
    return tiny


def test_an_interrupted_medium_replay_goes_on_with_the_same_data(monkeypatch, tiny):
    monkeypatch.setitem(settings.SETTINGS, 'hopper', tiny._replace(medium_interval=1024, checkpoint_interval=256))
    whole = make('medium-replay', None, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, 'save', interrupted_after(2, training.Training.save))
        with pytest.raises(KeyboardInterrupt):
            make('medium-replay', None, seed=1)
    restored = []
    resume = training.restored
    monkeypatch.setattr(training, 'restored', lambda tree: restored.append(1) or resume(tree))
    assert make('medium-replay', None, seed=1).sha256 == whole.sha256
    assert len(restored) > 10  # random hoppers fall after about 20 steps


def test_medium_replay_is_what_the_training_saw(monkeypatch, tiny):
    data = make('medium-replay', None, seed=1)
    assert len(data.transitions) % 256 == 0  # to the evaluation that found it medium
    rows = unpack(data.transitions, 11, 3)
    ends = (rows.observations[1:] != rows.next_observations[:-1]).any(axis=1)
    assert (rows.masks == 0).sum() > 3
    assert ends[:-1][rows.masks[:-2] == 0].all()
    assert make('medium-replay', None, seed=1).sha256 == data.sha256
    monkeypatch.setitem(settings.SETTINGS, 'hopper', tiny._replace(warmup_steps=512, medium_interval=2048, steps=256))
    with pytest.raises(InputError, match='not medium after 256 steps'):
        make('medium-replay', None, seed=1)


@pytest.mark.parametrize('task', TASKS)
def test_tasks_can_be_sent_to_other_processes(task):
    assert pickle.loads(pickle.dumps(TASKS[task])) == TASKS[task]


def test_every_robot_has_all_five_kinds():
    assert sum(name.split('/')[1] in locomotion.ROBOTS for name in RECIPES) == 15
    assert {f'{robot}-{kind}' for robot in locomotion.ROBOTS for kind in ('medium', 'expert')} <= set(policies.names())
    for bad in ({'transitions': 0}, {'transitions': 5, 'workers': 0}):
        with pytest.raises(InputError, match='must be at least 1'):
            generate('spot_jax/hopper/random-v0', **bad)
