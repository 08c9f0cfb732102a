"""Online fine-tuning's parts: the ring, what minibatches are drawn from, λ, a block by hand, transitions."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_member import of_spot

from spot_jax.acting.tasks import TASKS
from spot_jax.benchmark.phases import data_of_rows
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.types import unpack
from spot_jax.methods import METHODS, spot
from spot_jax.methods.regularizers import REGULARIZERS
from spot_jax.population import online, program, sharding
from spot_jax.population.members import Member, Population
from spot_jax.run import finetuning, policy
from spot_jax.run.ring_files import RingFiles
from spot_jax.system.errors import InputError

OPTIONS = online.Options(True, None, 0.2, 100, 0.1, ('regularizer_weight',))


def test_ring_wraps_around_and_keeps_rows_whole():
    ring = online.empty_ring((1, 2), 5, 3)
    value = 0.0
    for _ in range(4):
        new = value + jnp.arange(2.0).reshape(2, 1, 1, 1) + 10 * jnp.arange(2.0).reshape(1, 1, 2, 1)
        ring = online.add(ring, jnp.broadcast_to(new, (2, 1, 2, 3)))
        value += 2
    assert ring.count == 8
    np.testing.assert_array_equal(ring.rows[0, 0], np.repeat([[5.0], [6], [7], [3], [4]], 3, axis=1))
    np.testing.assert_array_equal(ring.rows[0, 1], ring.rows[0, 0] + 10)


def test_files_hold_what_is_new_and_give_the_ring_back(tmp_path):
    ring, files = online.empty_ring((1, 2), 5, 3), RingFiles(tmp_path / 'ring')
    rng, counts = np.random.default_rng(0), []
    for num_rows in (2, 0, 2, 4, 6):  # the third save wraps around, the last one overwrites all
        for _ in range(num_rows // 2):
            ring = online.add(ring, jnp.asarray(rng.normal(size=(2, 1, 2, 3)), jnp.float32))
        counts.append(files.save(ring).tolist())
        again = RingFiles(tmp_path / 'ring', np.array(counts[-1])).load((1, 2), 5, 3)
        np.testing.assert_array_equal(again.rows, ring.rows)
        assert again.count == ring.count
    assert counts[1] == [[0, 2]]
    assert counts[-1] == [[0, 2], [2, 4], [4, 8], [9, 14]]
    (tmp_path / 'ring' / '0000000002_0000000004.npy').write_bytes(b'torn')
    with pytest.raises(InputError, match=r'cannot read .*0000000002_0000000004.npy, which the checkpoint needs'):
        RingFiles(tmp_path / 'ring', np.array(counts[-1])).load((1, 2), 5, 3)


def drawn(size, options=OPTIONS, n=20_000):
    """The values drawn when the dataset is 0..29 and the ring's written rows are 100, 101, ..."""
    rows = jnp.arange(30.0)[:, None]
    ring = jnp.where(jnp.arange(50) < size, 100.0 + jnp.arange(50), -1.0)[:, None]
    return np.asarray(online.sample(jax.random.key(0), rows, ring, jnp.int32(size), n, options))[:, 0]


def test_uniform_over_the_union_of_what_is_written():
    values, counts = np.unique(drawn(10), return_counts=True)
    np.testing.assert_array_equal(values, [*range(30), *range(100, 110)])
    assert np.abs(counts / 500 - 1).max() < 0.2  # 500 of each; 0.2 is 4.5 standard deviations


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0])
def test_share_of_the_dataset(share):
    values = drawn(10, OPTIONS._replace(offline_share=share), 400)
    assert (values < 100).sum() == 400 * share
    assert values.min() >= 0
    assert values.max() < 110


def test_without_the_dataset():
    np.testing.assert_array_equal(np.unique(drawn(10, OPTIONS._replace(keep_offline=False))), np.arange(100, 110))


def test_weight_is_cooled_to_a_floor():
    weights = [float(online.cooled(jnp.float32(0.5), jnp.int32(t), OPTIONS)) for t in (0, 50, 80, 100, 1000)]
    np.testing.assert_allclose(weights, [0.5, 0.25, 0.1, 0.1, 0.1], rtol=1e-6)
    assert online.cooled(jnp.float32(0.5), jnp.int32(99), OPTIONS._replace(cooling_steps=0)) == 0.5


def test_block_equals_updates_written_by_hand():
    """Minibatches indexed in one concatenated buffer of what was there after each step; to 1e-5."""
    cvae = CVAE(2, (8,))
    algorithm = spot.TD3(Actor(2, (8, 8)), DoubleCritic((8, 8)), REGULARIZERS['support'](cvae, 'elbo', 1))
    spec = spot.Spec(cvae, algorithm, 3, 16, 1e-3)
    rng = np.random.default_rng(0)
    rows, new = (jnp.array(rng.uniform(-1, 1, (n, 10)), jnp.float32) for n in (30, 12))
    seeds, settings = jnp.array([5], jnp.uint32), {'actor_lr': 1e-3, 'critic_lr': 1e-3, 'discount': 0.9, 'tau': 0.1}
    hypers = of_spot((1, 1), regularizer_weight=0.5, **settings)
    params = program.init_stage(seeds, spot.cvae_stage(spec)).learner.params
    state = program.init_policies(seeds, 1, spot.algorithm(spec))
    expected = jax.tree.map(lambda x: x[0, 0], state.learner)
    ring = online.empty_ring((1, 1), 12, 10)
    phase = online.online_phase(spot.algorithm(spec), 16, OPTIONS, sharding.grid_mesh((1, 1), jax.devices()))
    update = jax.jit(spot.update, static_argnums=1)
    for block in range(6):
        ring = online.add(ring, new[2 * block : 2 * block + 2][:, None, None])
        state, _ = phase(state, ring, seeds, hypers, params, data_of_rows(rows))

        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), online.ONLINE_TRAIN), block)
        sample_key, noise_key = jax.random.split(key)
        minibatches = []
        for i, one in enumerate(jax.random.split(sample_key, 2)):
            buffer = jnp.concatenate([rows, new[: 2 * block + i + 1]])
            minibatches.append(buffer[jax.random.randint(jax.random.split(one)[0], (16,), 0, len(buffer))])
        weight = 0.5 * (1 - 2 * (block + 1) / 100)
        own = of_spot(regularizer_weight=weight, **settings)
        noise = spot.draw_noise(noise_key, algorithm, 16)
        density = jax.tree.map(lambda x: x[0], params)
        expected, _ = update(expected, algorithm, density, unpack(jnp.stack(minibatches), 3, 2), noise, own)
    assert state.gradient_steps.tolist() == [[12]]
    for a, b in zip(jax.tree.leaves(state.learner), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[0, 0], b, rtol=1e-5, atol=1e-5)


class Count(gym.Env):
    """Counts its steps; its goal is at 3 if `goal`, and its reward marks it."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-2, 2, (1,))

    def __init__(self, goal):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        self.n = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n += 1
        self.action = action
        reached = self.goal and self.n == 3
        return np.full(1, self.n, np.float32), float(reached), reached, False, {}


@pytest.mark.parametrize('goal', [True, False])
def test_transitions_of_terminals_and_time_outs(goal):
    member = Population([Member(0, {})], (1, 1), METHODS['spot'])
    low, high = np.full(1, -2, np.float32), np.full(1, 2, np.float32)
    scaling = policy.Scaling(np.full(1, 1, np.float32), np.full(1, 2, np.float32), low, high)
    make_env = lambda: gym.wrappers.TimeLimit(Count(goal), 3)
    collector = finetuning.Collector(make_env, member, TASKS['antmaze'], scaling, 0)
    rows = np.concatenate([collector.step(np.full((1, 1), 0.5, np.float32), t) for t in range(1, 5)])
    batch = unpack(rows, 1, 1)
    np.testing.assert_array_equal(batch.observations[:, 0] * 2 + 1, [0, 1, 2, 0])
    np.testing.assert_array_equal(batch.next_observations[:, 0] * 2 + 1, [1, 2, 3, 1])  # not the next episode's first
    np.testing.assert_array_equal(batch.masks, [1, 1, 0 if goal else 1, 1])  # a time-out is bootstrapped from
    np.testing.assert_array_equal(batch.rewards, [-1, -1, 0 if goal else -1, -1])
    assert collector._pool.envs[0].unwrapped.action == 1.0  # 0.5 in bounds of ±2
