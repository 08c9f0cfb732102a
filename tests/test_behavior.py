"""Behaviour policies: SAC against closed forms, the replay rows by hand, resumed training, the shipped weights."""

import io
import signal

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from spot_jax import behavior
from spot_jax.behavior import curves, replay, sac, training
from spot_jax.behavior import policy as policies
from spot_jax.behavior.__main__ import main
from spot_jax.behavior.collect import Collector, Episode, n_step_row
from spot_jax.behavior.sac import SAC, SACState
from spot_jax.behavior.settings import SETTINGS, Settings
from spot_jax.core.networks import MLP, DoubleCritic
from spot_jax.core.types import Transition, unpack
from spot_jax.system.errors import InputError

TINY = Settings(
    'Pendulum-v1',
    num_envs=2,
    rounds=4,
    warmup_steps=64,
    capacity=300,
    batch_size=16,
    hidden_dims=(8, 8),
    evaluation_interval=128,
    evaluation_episodes=2,
    checkpoint_interval=64,
)
AGENT = SAC(MLP((8,), 4), DoubleCritic((8,), layer_norm=True), 2, discount=0.9)


@pytest.fixture(scope='module')
def state():
    return jax.jit(sac.init, static_argnums=(1, 2))(jax.random.key(0), AGENT, 3)


def batch(leading=(5,)):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*leading, *shape)), jnp.float32)
    return Transition(draw(3), jnp.tanh(draw(2)), draw(), jnp.ones(leading).at[..., 0].set(0.0), draw(3))


def moments(state, observations):
    mean, raw = np.split(np.asarray(AGENT.actor.apply(state.actor.params, observations), np.float64), 2, axis=-1)
    return mean, np.exp(-5 + 3.5 * (np.tanh(raw) + 1))


def test_log_density_of_the_squashed_gaussian(state):
    observations, noise = jnp.ones((1, 3)), jnp.array([[0.3, -1.2]])
    actions, log_prob = sac.sample_actions(state.actor.params, AGENT, observations, noise)
    mean, std = moments(state, observations)
    density = lambda a: stats.norm.pdf(np.arctanh(a), mean, std) / (1 - a**2)
    np.testing.assert_allclose(actions, np.tanh(mean + std * np.asarray(noise)), rtol=1e-5)
    np.testing.assert_allclose(log_prob, np.log(density(np.asarray(actions, np.float64))).sum(-1), rtol=1e-4)
    area, _ = integrate.quad(lambda a: density(a)[0, 0], -1, 1)
    assert area == pytest.approx(1, abs=1e-6)
    _, extreme = sac.sample_actions(state.actor.params, AGENT, observations, jnp.full((1, 2), 1e3))
    assert np.isfinite(extreme).all()


def test_target_bootstraps_with_the_soft_value_and_not_after_a_terminal(state):
    rows, noise = batch(), jnp.full((5, 2), 0.5)
    target = sac.target_values(state, AGENT, rows, noise)
    actions, log_probs = sac.sample_actions(state.actor.params, AGENT, rows.next_observations, noise)
    q = AGENT.critic.apply(state.critic.target_params, rows.next_observations, actions)
    expected = rows.rewards + 0.9 * rows.masks * (q.min(axis=0) - 1.0 * log_probs)  # the first α is 1
    np.testing.assert_allclose(target, expected, rtol=1e-5)
    assert target[0] == rows.rewards[0]


def test_losses_by_hand(state):
    rows = batch()
    q = np.asarray(AGENT.critic.apply(state.critic.params, rows.observations, rows.actions))
    loss, _ = sac.critic_loss_fn(state.critic.params, AGENT, rows, jnp.zeros(5))
    assert loss == pytest.approx(float((q**2).mean(axis=1).sum()), rel=1e-5)
    noise = jnp.zeros((5, 2))
    actions, log_probs = sac.sample_actions(state.actor.params, AGENT, rows.observations, noise)
    q = np.asarray(AGENT.critic.apply(state.critic.params, rows.observations, actions))
    args = (state.actor.params, AGENT, state.critic.params, jnp.float32(0.5), rows.observations, noise)
    loss, metrics = sac.actor_loss_fn(*args)
    assert loss == pytest.approx(float(np.mean(0.5 * log_probs - q.min(axis=0))), rel=1e-5)
    assert metrics['entropy'] == pytest.approx(-float(np.mean(log_probs)), rel=1e-5)
    # target entropy −2: at −3 nats the policy is too sure of itself and descending the loss raises log α
    assert jax.grad(sac.temperature_loss_fn)(0.0, AGENT, -3.0) == -1
    assert jax.grad(sac.temperature_loss_fn)(0.0, AGENT, -1.0) == 1


def test_update_moves_the_targets_by_tau(state):
    noise = sac.draw_noise(jax.random.key(1), AGENT, 5)
    new, _ = jax.jit(sac.update, static_argnums=1)(state, AGENT, batch((2, 5)), noise)
    mixed = jax.tree.map(lambda p, t: 0.005 * p + 0.995 * t, new.critic.params, state.critic.target_params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.critic.target_params, mixed)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), new.actor.params, state.actor.params)
    assert all(jax.tree.leaves(moved))
    assert isinstance(new, SACState)


def test_the_numpy_policy_is_the_network(state):
    low, high = np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)
    policy = training.policy_of(state, low, high)
    observations, noise = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32), np.ones((2, 4, 2))
    unit = np.asarray(sac.sample_actions(state.actor.params, AGENT, observations, noise)[0])
    np.testing.assert_allclose(policy(observations, noise), low + (unit + 1) / 2 * (high - low), atol=1e-5)
    again = policies.Policy.from_arrays(np.load(io.BytesIO(policy.to_bytes()), allow_pickle=False))
    np.testing.assert_array_equal(again(observations), policy(observations))
    np.testing.assert_allclose(policy.unit(observations), np.tanh(moments(state, observations)[0]), atol=1e-5)


def test_rows_of_several_steps():
    episode = Episode([np.full(1, i, np.float32) for i in range(4)], [np.zeros(1, np.float32)] * 3, [1.0, 2.0, 4.0])
    row = unpack(n_step_row(episode, 0, 0.5, terminated=False), 1, 1)
    assert (row.observations[0], row.rewards, row.masks, row.next_observations[0]) == (0, 1 + 1 + 1, 0.25, 3)
    row = unpack(n_step_row(episode, 2, 0.5, terminated=False), 1, 1)
    assert (row.observations[0], row.rewards, row.masks, row.next_observations[0]) == (2, 4, 1, 3)
    assert unpack(n_step_row(episode, 1, 0.5, terminated=True), 1, 1).masks == 0


class Counter(gym.Env):
    """Counts its steps; ends after 5, as a terminal if so made, else by truncation."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, terminates):
        self.terminates, self.count = terminates, 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1), {}

    def step(self, action):
        self.count += 1
        over = self.count == 5
        return np.full(1, self.count), 1.0, over and self.terminates, over and not self.terminates, {}


@pytest.mark.parametrize('terminates', [True, False])
def test_every_step_becomes_one_row_and_only_terminals_stop_the_bootstrap(terminates):
    ended = []
    collector = Collector(lambda: Counter(terminates), 2, 0, 3, 0.5, on_episode=lambda *args: ended.append(args))
    rows, returns = collector.collect(lambda observations: np.zeros((2, 1), np.float32), 5)
    assert returns == [5, 5]
    assert [terminated for _, terminated in ended] == [terminates] * 2
    found = [unpack(row, 1, 1) for row in rows[::2]]
    last = 0 if terminates else 1
    assert [float(r.observations[0]) for r in found[:3]] == [0, 1, 2]
    assert [float(r.rewards) for r in found[:2]] == [1.75, 1.75]
    assert sorted(float(unpack(row, 1, 1).observations[0]) for row in rows) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    masks = {float(unpack(row, 1, 1).observations[0]): float(unpack(row, 1, 1).masks) for row in rows}
    assert masks == {0: 0.25, 1: 0.25, 2: 0.25 * last, 3: 0.5 * last, 4: last}


def test_ring_keeps_the_newest_rows():
    ring = replay.empty_ring(4, 1)
    rows = jnp.arange(1.0, 4.0)[:, None]
    ring = replay.add(ring, rows, jnp.int32(2))
    np.testing.assert_array_equal(ring.rows[:, 0], [1, 2, 0, 0])
    ring = replay.add(ring, 10 * rows, jnp.int32(3))
    np.testing.assert_array_equal(ring.rows[:, 0], [30, 2, 10, 20])
    assert int(ring.count) == 5


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A training from start to end."""
    run = training.Training(TINY, 0, tmp_path_factory.mktemp('whole'))
    assert run.go(448) == 0
    return run


@pytest.mark.parametrize('stop_in_evaluation', [False, True])
def test_a_resumed_training_is_the_same_to_the_byte(whole, tmp_path, stop_in_evaluation):
    part = training.Training(TINY, 0, tmp_path / 'part')
    if stop_in_evaluation:  # asked to stop while it evaluates at step 256
        evaluate = part.evaluate

        def interrupted():
            part.stop_signal = signal.SIGTERM if part.step == 256 else 0
            return evaluate()

        part.evaluate = interrupted
        assert part.go(448) == 128 + signal.SIGTERM
    else:
        part.go(296)
    resumed = training.Training(TINY, 0, tmp_path / 'part')
    assert resumed.step == (256 if stop_in_evaluation else 296)
    resumed.go(448)
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)
    np.testing.assert_array_equal(whole.ring.rows, resumed.ring.rows)
    for name in ('metrics.csv', 'expert.npz'):
        assert (whole.workdir / name).read_bytes() == (tmp_path / 'part' / name).read_bytes()
    with pytest.raises(InputError, match='another config'):
        training.Training(TINY, 1, tmp_path / 'part')


def test_learning_curves_are_drawn(whole, tmp_path, capsys):
    out = tmp_path / 'curves.png'
    assert main(['plot', str(whole.workdir), f'--out={out}']) == 0
    assert out.read_bytes().startswith(b'\x89PNG')
    environment, curve = curves.read_curve(whole.workdir)
    assert environment == 'Pendulum-v1'
    np.testing.assert_array_equal(curve[:, 0], [128, 256, 384])
    assert ((curve[:, 1] < 0) & (curve[:, 1] > -2000)).all()
    assert main(['plot', str(tmp_path), f'--out={out}']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_medium_is_between_a_third_and_a_half():
    found = [SETTINGS['hopper'].is_medium(share * 3234.3) for share in (0.3, 0.34, 0.49, 0.6)]
    assert found == [False, True, True, False]
    assert not SETTINGS['ant'].is_medium(1.0)


def test_what_makes_no_sense_is_refused(tmp_path):
    for environment, message in (('Nope-v0', 'cannot make'), ('CartPole-v1', 'must be a Box')):
        with pytest.raises(InputError, match=message):
            training.Training(TINY._replace(environment=environment), 0, tmp_path)
    with pytest.raises(InputError, match='no behaviour policy'):
        behavior.load('nope')


@pytest.mark.parametrize('name', policies.names())
def test_cards_match_the_shipped_weights(name):
    card, policy = policies.card(name), behavior.load(name)
    settings = SETTINGS[name.split('-')[0]]
    assert card['environment'] == settings.environment
    env = gym.make(settings.environment, disable_env_checker=True)
    assert policy.kernels[0].shape[0] == env.observation_space.shape[0]
    np.testing.assert_array_equal(policy.action_low, env.action_space.low)
    assert all(array.dtype == np.float32 for array in policy.kernels + policy.biases)
    if settings.reference_return is None:
        return
    rng, returns = np.random.default_rng(0), []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = policy(observation, rng.standard_normal(len(policy.action_low), np.float32))
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    assert abs(np.mean(returns) - card['return_mean']) < 3 * card['return_std'] + 0.05 * abs(card['return_mean'])
    share = card['return_mean'] / settings.reference_return
    assert 0.25 < share < 0.5 if name.endswith('medium') else share >= 0.9


def test_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in policies.WEIGHTS.iterdir()) <= 3e6
