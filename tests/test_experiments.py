"""Every preset is a valid config, with the settings of the paper."""

import pytest

from experiments import antmaze, mujoco, pointmaze
from spot_jax.methods import METHODS
from spot_jax.recipes import RECIPES
from spot_jax.run.config import validate
from spot_jax.system.errors import InputError

ALL = [(m, name) for m in (antmaze, mujoco, pointmaze) for name in m.PRESETS]


@pytest.mark.parametrize(('module', 'name'), ALL)
def test_preset_is_valid(module, name):
    validate(module.get_config(name))


def test_the_fifteen_tasks_of_the_poster():
    assert len(antmaze.PRESETS) == 6
    assert len(mujoco.PRESETS) == 9
    config = antmaze.get_config('large-diverse')
    assert (config.dataset_id, config.regularizer.weight) == ('spot_jax/antmaze/large-diverse-v2', 0.025)
    assert (config.actor.lr, config.actor.output_init, config.critic.output_init) == (1e-4, 1e-3, 3e-3)
    config = mujoco.get_config('walker2d-medium-expert')
    assert (config.regularizer.weight, config.actor.dropout, config.normalize_observations) == (0.5, 0.1, True)


def test_data_are_generated_unless_d4rls_are_asked_for():
    named = ('hopper-medium,d4rl', 'hopper-medium,minari', 'walker2d-medium-replay')
    ids = {name: mujoco.get_config(name).dataset_id for name in ('', *named)}
    assert ids == {
        '': 'spot_jax/hopper/medium-v0',
        'hopper-medium,d4rl': 'd4rl/hopper/medium-v2',
        'hopper-medium,minari': 'mujoco/hopper/medium-v0',
        'walker2d-medium-replay': 'spot_jax/walker2d/medium-replay-v0',
    }
    weights = [mujoco.get_config(f'hopper-medium-expert{option}').regularizer.weight for option in ('', ',d4rl')]
    assert weights == [1.0, 0.2]
    assert antmaze.get_config('').dataset_id == 'spot_jax/antmaze/umaze-v2'
    assert antmaze.get_config('medium-play,d4rl').dataset_id == 'D4RL/antmaze/medium-play-v1'
    assert all(m.get_config(name).dataset_id in RECIPES for m in (mujoco, antmaze) for name in m.PRESETS)
    for name in ('hopper-medium,d4', 'hopper,d4rl', 'hopper-medium,d4rl,minari'):
        with pytest.raises(InputError, match=r'no |not both'):
            mujoco.get_config(name)


def test_fine_tuning_as_in_the_paper():
    config = antmaze.get_config('large-play,d4rl,finetune')
    assert (config.online.steps, config.online.discount) == (1_000_000, 0.995)
    assert config.dataset_id == 'D4RL/antmaze/large-play-v1'
    config = antmaze.get_config('medium-diverse,finetune')
    assert (config.online.steps, config.online.discount) == (1_000_000, None)
    assert antmaze.get_config('large-play,iql,finetune').online.discount is None  # it is SPOT's
    with pytest.raises(InputError, match=r"no option 'finetun' .*: choose one of d4rl, plus, finetune"):
        antmaze.get_config('umaze,finetun')


def test_critics_of_all_methods_are_the_same_on_pointmaze_large():
    config = pointmaze.get_config('large,td3_bc')
    assert (config.method, config.offline.steps, config.td3_bc.actor_lr) == ('td3_bc', 20_000, 3e-4)
    for settings in (config, *(config[name] for name in METHODS if name not in ('spot', 'bc', 'percent_bc', 'dt'))):
        assert (settings.discount, settings.tau) == (0.995, 0.05)
    assert (config.critic.lr, config.iql.critic_lr, config.iql.value_lr, config.cql.critic_lr) == (1e-3,) * 4
    assert pointmaze.get_config('medium').td3_bc.tau == 0.005


def test_spot_plus():
    for module, name, discount in ((antmaze, 'umaze', 0.995), (pointmaze, 'medium', 0.995), (mujoco, '', 0.99)):
        config, plain = module.get_config(f'{name},plus'), module.get_config(name)
        assert (config.critic.layer_norm, config.batch_size, config.discount) == (True, 1024, discount)
        assert config.critic.hidden_dims == config.actor.hidden_dims == (256, 256, 256)
        assert config.regularizer == plain.regularizer
        assert (plain.critic.layer_norm, plain.batch_size, plain.discount) == (False, 256, 0.99)
    with pytest.raises(InputError, match="'umaze': plus does not go with iql: leave out one of them"):
        antmaze.get_config('umaze,plus,iql')
