"""Onestep: parity of its three phases with its authors' code, its pieces by hand, and a problem with a known answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, torch_mlp, under
from one_member import hyperparameters, one_step_episodes, options, pack

from spot_jax.core.method import Data
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Transition
from spot_jax.methods import improvements, onestep
from spot_jax.methods.improvements import Drawn
from spot_jax.methods.onestep import METHOD, OnestepState

META = {name: float(value) for name, value in under('onestep/meta').items()}
HYPERS = hyperparameters(METHOD, kl_weight=META['reverse_kl_alpha'], temperature=META['exp_weight_temp'])
LOSSES = {'reverse_kl': improvements.reverse_kl_loss_fn, 'exp_weight': improvements.exp_weight_loss_fn}
NOISE = {'reverse_kl': ('actions', 'kl_actions'), 'exp_weight': ('unused', 'baseline')}


def net(name):
    return {'params': torch_mlp(f'onestep/{name}', [f'net.net.{i}' for i in (1, 3, 5)])}


SHARED = {'behavior': net('beta_step/after/beta'), 'critic': net('q_step2/after/q')}


def small(**changes):
    return options(METHOD, **{'hidden_dims': (16, 16), **changes})


def recorded(part):
    values = under(f'onestep/{part}/batch')
    batch = Transition(**{f: values[f] for f in Transition._fields if f != 'masks'}, masks=1 - values['dones'])
    noise = np.zeros((0, 32, 3), np.float32)
    if part in NOISE:
        first, others = (GOLDEN[f'onestep/{part}/noise/{name}'] for name in NOISE[part])
        noise = np.concatenate([first[None], others])
    return jax.tree.map(jnp.asarray, Drawn(batch, values['next_actions'], np.ones(32, np.float32), noise))


def test_the_behavior_is_the_authors():
    stage, _ = METHOD.stages(small(), 5, 3)
    state, drawn = TrainState.create(net('before/beta')), recorded('beta_step')
    new, metrics = jax.jit(stage.update)(state, None, drawn, HYPERS, jnp.int32(0))
    np.testing.assert_allclose(metrics['behavior_loss'].mean(), GOLDEN['onestep/beta_step/value/loss'], **TOLERANCE)
    chex.assert_trees_all_close(stage.result(new, None), {'behavior': SHARED['behavior']}, **TOLERANCE)
    loss_fn = jax.jit(jax.grad(onestep.behavior_loss_fn, has_aux=True), static_argnums=1)
    grads, _ = loss_fn(state.params, onestep.static_parts(small(), 3), drawn.batch)
    chex.assert_trees_all_close(grads, net('beta_step/grad/beta'), rtol=1e-5, atol=1e-4)  # up to 90


def test_q_is_the_authors():
    """The target stays at the authors' step 1 and moves at their step 2."""
    _, stage = METHOD.stages(small(), 5, 3)
    state = TargetTrainState.create(net('before/q'), target_params=net('before/target_q'))
    update = jax.jit(stage.update)
    loss_fn = jax.jit(jax.grad(onestep.critic_loss_fn, has_aux=True), static_argnums=1)
    for step in (1, 2):
        part, drawn = f'q_step{step}', recorded(f'q_step{step}')
        grads, _ = loss_fn(state.params, onestep.static_parts(small(), 3), state.target_params, drawn, HYPERS.discount)
        chex.assert_trees_all_close(grads, net(f'{part}/grad/q'), **TOLERANCE)
        state, metrics = update(state, SHARED, drawn, HYPERS, jnp.int32(step))
        np.testing.assert_allclose(metrics['critic_loss'].mean(), GOLDEN[f'onestep/{part}/value/loss'], **TOLERANCE)
        np.testing.assert_allclose(metrics['q'], GOLDEN[f'onestep/{part}/value/pred_value'][:, 0], **TOLERANCE)
        chex.assert_trees_all_close(state.params, net(f'{part}/after/q'), **TOLERANCE)
        # Tighter, since with the Q from before its step it would differ by τ·lr = 5e-7.
        chex.assert_trees_all_close(state.target_params, net(f'{part}/after/target_q'), rtol=0, atol=1e-7)
    assert stage.result(state, {'behavior': 0}).keys() == {'behavior', 'critic'}


@pytest.mark.parametrize('name', LOSSES)
def test_improvements_are_the_authors(name):
    algorithm, drawn = METHOD.make(small(improvement=name), 5, 3), recorded(name)
    state = OnestepState(TrainState.create(net(f'{name}/before/pi')))

    @jax.jit
    def run(state):
        grad = jax.grad(LOSSES[name], has_aux=True)
        grads, _ = grad(state.actor.params, onestep.static_parts(small(), 3), SHARED, drawn, HYPERS)
        new, metrics = algorithm.update(state, SHARED, drawn, HYPERS, jnp.int32(1))
        policy = algorithm.policy(new, SHARED, HYPERS)
        act = jax.vmap(lambda observation: algorithm.act(policy, (), observation, jnp.float32(0))[0])
        return new, metrics, grads, act(drawn.batch.observations)

    new, metrics, grads, actions = run(state)
    value = under(f'onestep/{name}/value')
    np.testing.assert_allclose(metrics['actor_loss'].mean(), value['loss'], **TOLERANCE)
    for metric, key in (('actor_q', 'qval'), ('kl', 'kl'), ('weight', 'weight')):
        if key in value:
            np.testing.assert_allclose(metrics[metric], value[key][:, 0], **TOLERANCE)
    chex.assert_shape(list(metrics.values()), (32,))
    assert set(metrics) <= set(METHOD.metrics)
    chex.assert_trees_all_close(grads, net(f'{name}/grad/pi'), rtol=1e-5, atol=1e-3)  # up to 2500
    chex.assert_trees_all_close(new.actor.params, net(f'{name}/after/pi'), **TOLERANCE)
    np.testing.assert_allclose(actions, GOLDEN[f'onestep/{name}/act'], **TOLERANCE)


def test_easy_bcq_acts_as_the_authors():
    parts, observations = onestep.static_parts(small(), 3), recorded('easy_bcq').batch.observations
    noise = GOLDEN['onestep/easy_bcq/noise/candidates'].reshape(10, 32, 3)
    best = jax.jit(jax.vmap(lambda o, n: improvements.best_of(parts, SHARED, o, n), (0, 1)))(observations, noise)
    np.testing.assert_allclose(best, GOLDEN['onestep/easy_bcq/act'], **TOLERANCE)


@pytest.mark.parametrize('improvement', METHOD.fields['improvement'].takes.words.removeprefix('one of ').split(', '))
def test_the_policy_starts_as_the_behavior(improvement):
    """Whatever was there; afterwards it is its own. With easy_bcq it stays so."""
    algorithm, drawn = METHOD.make(small(improvement=improvement), 5, 3), recorded('reverse_kl')
    update = jax.jit(algorithm.update)
    starts = [OnestepState(TrainState.create(params)) for params in (net('reverse_kl/before/pi'), SHARED['behavior'])]
    first, same = (update(state, SHARED, drawn, HYPERS, jnp.int32(0))[0] for state in starts)
    later = update(starts[0], SHARED, drawn, HYPERS, jnp.int32(1))[0]
    chex.assert_trees_all_equal(first.actor.params, same.actor.params)
    moved = lambda state, start: max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), state, start)))
    assert moved(first.actor.params, later.actor.params) > 1e-3
    size = moved(first.actor.params, SHARED['behavior'])
    np.testing.assert_allclose(size, 0 if improvement == 'easy_bcq' else 1e-4, rtol=1e-2)


def test_next_actions_and_what_is_known():
    """Of two episodes of three steps, the first cut off and the second ended: only the cut one's last is unknown."""
    index = np.arange(6.0)[:, None]
    masks = np.array([1, 1, 1, 1, 1, 0.0])
    first, last = (jnp.repeat(jnp.array(x, jnp.int32), 3) for x in ([0, 3], [2, 5]))
    data = Data(pack(index, index / 10, np.zeros(6), masks, index + 1), first, last, jnp.zeros(6))
    drawn = onestep.draw(jax.random.key(0), data, (1, 1), 100, 2)
    assert drawn.noise.shape == (2, 100, 1)
    rows = drawn.batch.observations[:, 0].astype(int)
    assert set(rows.tolist()) == set(range(6))
    np.testing.assert_array_equal(drawn.known, np.array([1, 1, 0, 1, 1, 1])[rows])
    inside = (rows != 2) & (rows != 5)
    np.testing.assert_allclose(drawn.next_actions[inside, 0], (rows[inside] + 1) / 10, rtol=1e-6)


def test_q_by_hand():
    """Q is its bias, 1, and the target's 3: a step, an end, and a step that is followed by nobody knows what."""
    parts = onestep.static_parts(small(hidden_dims=()), 1)
    params = lambda bias: {'params': {'Dense_0': {'kernel': jnp.zeros((2, 1)), 'bias': jnp.full(1, bias)}}}
    zeros = jnp.zeros((3, 1))
    batch = Transition(zeros, zeros, jnp.array([2.0, 2.0, 9.0]), jnp.array([1.0, 0.0, 1.0]), zeros)
    drawn = Drawn(batch, zeros, jnp.array([1.0, 1.0, 0.0]), zeros)
    loss, metrics = onestep.critic_loss_fn(params(1.0), parts, params(3.0), drawn, jnp.float32(0.5))
    np.testing.assert_allclose(loss, ((2 + 1.5 - 1) ** 2 + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics['critic_loss'].mean(), loss, rtol=1e-6)


def test_learns_the_tilted_behavior():
    """The data's actions are N(0, 0.3²) and the reward is the action: Q(a) = a.

    The best against weight·KL is β tilted by exp(a / weight), N(0.3² / weight, 0.3²); exponential weights make the
    same with temperature 1 / weight. The best of 10 samples is the largest.
    """
    actions = np.clip(0.3 * np.random.default_rng(0).normal(size=(2000, 1)), -1, 1)
    ones = np.ones((2000, 1))
    data = one_step_episodes(pack(ones, actions, actions[:, 0], np.zeros(2000), ones))
    rates = dict.fromkeys(('behavior_lr', 'critic_lr', 'actor_lr'), 1e-2) | {'kl_weight': 0.3, 'temperature': 1 / 0.3}
    chosen = lambda name: options(METHOD, hidden_dims=(16,), batch_size=128, improvement=name, **rates)
    hypers = hyperparameters(METHOD, **rates)

    def train(part, learner, shared, steps):
        def one(learner, x):
            return part.update(learner, shared, part.draw(x[0], data), hypers, x[1])[0], None

        return jax.lax.scan(one, learner, (jax.random.split(jax.random.key(1), steps), jnp.arange(steps)))[0]

    @jax.jit
    def run():
        shared = None
        for stage in METHOD.stages(chosen('easy_bcq'), 1, 1):
            shared = stage.result(train(stage, stage.init(jax.random.key(0)), shared, 400), shared)
        actions = {}
        for name in ('reverse_kl', 'exp_weight', 'easy_bcq'):
            algorithm = METHOD.make(chosen(name), 1, 1)
            learner = algorithm.init(jax.random.key(0))
            learner = learner if name == 'easy_bcq' else train(algorithm, learner, shared, 300)
            actions[name] = algorithm.act(algorithm.policy(learner, shared, hypers), (), jnp.ones(1), jnp.float32(0))[0]
        return improvements.gaussian(
            onestep.static_parts(chosen('easy_bcq'), 1), shared['behavior'], jnp.ones(1)
        ), actions

    (mean, log_std), actions = run()
    np.testing.assert_allclose([mean[0], jnp.exp(log_std[0])], [0, 0.3], atol=0.04)
    np.testing.assert_allclose([actions['reverse_kl'][0], actions['exp_weight'][0]], 0.3, atol=0.08)
    best = 0.3 * jax.random.normal(jax.random.key(0), (10, 1)).max()
    np.testing.assert_allclose(actions['easy_bcq'], [best], atol=0.1)
