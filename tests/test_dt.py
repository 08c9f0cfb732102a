"""DT against its authors' code, by hand, and on a problem whose answer is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, under
from one_member import hyperparameters, options

from spot_jax.core.method import Data
from spot_jax.core.train_state import TrainState
from spot_jax.core.transformer import Block, Transformer, dropped
from spot_jax.core.xla import B1
from spot_jax.methods import dt
from spot_jax.methods.dt import METHOD, Drawn, DTState, Memory, Windows

META = {name: float(value) for name, value in under('dt/meta').items()}
SIZES = {
    'context': int(META['context']),
    'num_heads': int(META['heads']),
    'head_dim': int(META['embed'] / META['heads']),
    'num_layers': int(META['layers']),
    'num_timesteps': int(META['max_ep_len']),
    'warmup_steps': int(META['warmup_steps']),
    'dropout': 0.0,
    'reward_scale': 1.0,
}
HYPERS = hyperparameters(METHOD, actor_lr=META['lr'], weight_decay=META['weight_decay'], max_norm=META['clip'])


def model(prefix):
    """The recorded parameters; the heads that predict states and returns are not ours."""
    of = lambda name: jnp.asarray(GOLDEN[f'{prefix}/model/{name}'])
    linear = lambda name: {'kernel': of(f'{name}.weight').T, 'bias': of(f'{name}.bias')}
    conv = lambda name: {'kernel': of(f'{name}.weight'), 'bias': of(f'{name}.bias')}
    norm = lambda name: {'scale': of(f'{name}.weight'), 'bias': of(f'{name}.bias')}
    layers = ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj']
    block = lambda i: {
        **{f'LayerNorm_{j}': norm(f'transformer.h.{i}.ln_{j + 1}') for j in range(2)},
        **{f'Dense_{j}': conv(f'transformer.h.{i}.{name}') for j, name in enumerate(layers)},
    }
    heads = ['embed_return', 'embed_state', 'embed_action', 'predict_action.0']
    return {
        'params': {
            **{f'Dense_{j}': linear(name) for j, name in enumerate(heads)},
            'Embed_0': {'embedding': of('embed_timestep.weight')},
            'LayerNorm_0': norm('embed_ln'),
            'Transformer_0': {
                **{f'Block_{i}': block(i) for i in range(SIZES['num_layers'])},
                'LayerNorm_0': norm('transformer.ln_f'),
            },
        }
    }


def recorded(step):
    batch = under(f'dt/step{step}/batch')
    returns_to_go = batch['returns_to_go'][:, :-1, 0]
    parts = (batch['observations'], batch['actions'], returns_to_go, batch['timesteps'].astype(np.int32), batch['mask'])
    return Drawn(Windows(*map(jnp.asarray, parts)), None)


def algorithm(**changes):
    return dt.make(options(METHOD, **SIZES | changes), 5, 3)


NET = dt.DT(3, *(SIZES[name] for name in ('head_dim', 'num_heads', 'num_layers', 'num_timesteps')))
APPLY, UPDATE = jax.jit(NET.apply), jax.jit(algorithm().update)


def without_key_biases(tree):
    """Attention does not depend on them: their gradient is rounding, and so is where Adam takes them."""
    is_joint = lambda path: [key.key for key in path[-2:]] == ['Dense_0', 'bias'] and 'Block' in path[-3].key
    cut = lambda path, x: jnp.delete(x, slice(len(x) // 3, 2 * len(x) // 3)) if is_joint(path) else x
    return jax.tree.map_with_path(cut, tree)


@pytest.fixture(scope='module')
def states():
    """The states before and after the recorded updates, and their metrics."""
    found, metrics = [DTState(TrainState.create(model('dt/before')))], []
    for step in (1, 2):
        state, told = UPDATE(found[-1], (), recorded(step), HYPERS, jnp.int32(step - 1))
        found.append(state)
        metrics.append(told)
    return found, metrics


@pytest.mark.parametrize('step', [1, 2])
def test_updates_are_the_authors(step, states):
    before, after, metrics, drawn = *states[0][step - 1 : step + 1], states[1][step - 1], recorded(step)
    is_real = np.asarray(drawn.windows.real, bool)
    assert not is_real.all()
    predicted = GOLDEN[f'dt/step{step}/value/action_preds']
    np.testing.assert_allclose(APPLY(before.actor.params, drawn.windows)[is_real], predicted[is_real], **TOLERANCE)
    assert set(metrics) == set(METHOD.metrics)
    chex.assert_shape(list(metrics.values()), (8,))
    np.testing.assert_allclose(metrics['actor_loss'].mean(), GOLDEN[f'dt/step{step}/value/loss'], **TOLERANCE)
    moments = before.actor.opt_state.mu, after.actor.opt_state.mu
    grads = jax.tree.map(lambda old, new: (new - B1 * old) / (1 - B1), *moments)
    chex.assert_trees_all_close(grads, model(f'dt/step{step}/grad'), rtol=1e-5, atol=1e-6)
    new, expected = (without_key_biases(x) for x in (after.actor.params, model(f'dt/step{step}/after')))
    chex.assert_trees_all_close(new, expected, **TOLERANCE)


@pytest.mark.parametrize(('name', 'length'), [('act2', 2), ('act6', 6)])
def test_acting_is_the_authors(name, length, states):
    """With a history shorter and one longer than the context."""
    given, method = under(f'dt/{name}'), algorithm()
    assert len(given['observations']) == length
    kept = lambda x: jnp.concatenate([jnp.zeros((4, *x.shape[1:])), jnp.asarray(x[:-1])])[-4:]
    memory = Memory(
        *map(kept, (given['observations'], given['actions'], given['returns_to_go'])), jnp.int32(length - 1)
    )
    policy = method.policy(states[0][2], (), HYPERS)
    reward = given['returns_to_go'][-2] - given['returns_to_go'][-1]
    action, after = jax.jit(method.act)(policy, memory, jnp.asarray(given['observations'][-1]), jnp.float32(reward))
    np.testing.assert_allclose(action, given['action'], **TOLERANCE)
    np.testing.assert_allclose(after.returns_to_go[-2:], given['returns_to_go'][-2:], rtol=1e-6)
    np.testing.assert_array_equal(after.actions[-1], action)
    assert after.step == length


def test_windows_by_hand():
    """Episodes of rows 0 to 2 and 3 to 7; the observation is the row's number, the action its tenth, the rewards 1."""
    rows = jnp.asarray(np.arange(8.0, dtype=np.float32)[:, None] * np.array([1, 0.1, 0, 0, 0], np.float32))
    first, last = np.array([0] * 3 + [3] * 5), np.array([2] * 3 + [7] * 5)
    data = Data(rows, *map(jnp.asarray, (first, last, (last - np.arange(8) + 1).astype(np.float32))))
    found = dt.windows_of(data, jnp.array([1, 3, 7]), 3, 1, 1)
    real = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(found.real, real)
    seen = lambda x: np.where(real, x.reshape(3, 3), 0)
    np.testing.assert_array_equal(seen(found.observations), [[0, 0, 1], [0, 0, 3], [5, 6, 7]])
    np.testing.assert_allclose(seen(found.actions), [[0, 0, 0.1], [0, 0, 0.3], [0.5, 0.6, 0.7]], rtol=1e-6)
    np.testing.assert_array_equal(seen(found.returns_to_go), [[0, 3, 2], [0, 0, 5], [3, 2, 1]])
    np.testing.assert_array_equal(seen(found.timesteps), [[0, 0, 1], [0, 0, 0], [2, 3, 4]])


def test_attention_by_hand():
    """Tokens ±(1, -1), whose products are ±2; queries, keys and values are they, what is between the layers is 0."""
    eye, norm = jnp.eye(2), {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}
    zero = lambda a, b: {'kernel': jnp.zeros((a, b)), 'bias': jnp.zeros(b)}
    block = {
        'LayerNorm_0': norm,
        'LayerNorm_1': norm,
        'Dense_0': {'kernel': jnp.concatenate([eye] * 3, axis=1), 'bias': jnp.zeros(6)},
        'Dense_1': {'kernel': eye, 'bias': jnp.zeros(2)},
        'Dense_2': zero(2, 8),
        'Dense_3': zero(8, 2),
    }
    x = jnp.array([1.0, 1.0, -1.0, 1.0])[:, None] * jnp.array([[1.0, -1.0]])
    seen = jnp.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]], bool)
    out = Block(1).apply({'params': block}, x, seen)
    same, other = np.exp(2 / np.sqrt(2)), np.exp(-2 / np.sqrt(2))
    mixed = [1, 1, (other - same) / (other + same), (2 * same - other) / (2 * same + other)]
    np.testing.assert_allclose(out, (x[:, 0] + np.array(mixed))[:, None] * np.array([[1, -1]]), rtol=1e-4)


def test_what_an_action_depends_on(states):
    """Returns and observations up to its own, actions before it; nothing of what is not real."""
    params, windows = states[0][0].actor.params, recorded(1).windows
    windows = windows._replace(real=jnp.ones((8, 4)).at[:, 0].set(0.0), timesteps=windows.timesteps % 20)
    base = APPLY(params, windows)
    reached = {}
    for field in ('observations', 'actions', 'returns_to_go', 'timesteps'):
        for at in range(4):
            changed = getattr(windows, field).at[:, at].add(1)
            there = APPLY(params, windows._replace(**{field: changed})) != base
            reached[field, at] = [bool(there[:, t].any()) for t in (1, 2, 3)]
    later = {1: [True, True, True], 2: [False, True, True], 3: [False, False, True], 4: [False] * 3}
    for field in ('observations', 'actions', 'returns_to_go', 'timesteps'):
        assert reached[field, 0] == [False] * 3
        for at in (1, 2, 3):
            assert reached[field, at] == later[at + (field == 'actions')], (field, at)


def test_the_loss_counts_what_is_real(states):
    """As many real steps in one window as in another or not: each counts alike."""
    before, windows = states[0][0], recorded(1).windows
    windows = windows._replace(real=jnp.zeros((8, 4)).at[0, 3].set(1.0).at[1, 1:].set(1.0))
    errors = np.mean((APPLY(before.actor.params, windows) - windows.actions) ** 2, axis=-1)
    losses = UPDATE(before, (), Drawn(windows, None), HYPERS, jnp.int32(0))[1]['actor_loss']
    np.testing.assert_allclose(losses.mean(), (errors[0, 3] + errors[1, 1:].sum()) / 4, rtol=1e-5)
    np.testing.assert_allclose(losses, [2 * errors[0, 3], 2 * errors[1, 1:].sum(), *[0] * 6], rtol=1e-5)


def test_the_target_falls_by_what_is_earned():
    """With rewards of -1 and 0 that are raised by 1 and scaled by 0.5; the first is no reward."""
    method = algorithm(reward_scale=0.5, reward_shift=1.0)
    hypers = HYPERS._replace(target_return=jnp.float32(-3.0))
    policy = method.policy(DTState(TrainState.create(model('dt/before'))), (), hypers)
    act, memory, returns_to_go = jax.jit(method.act), method.memory(), []
    for reward in (0.0, -1.0, 0.0, 1.0, -1.0):
        action, memory = act(policy, memory, jnp.ones(5), jnp.float32(reward))
        returns_to_go.append(float(memory.returns_to_go[-1]))
        assert action.shape == (3,)
    assert returns_to_go == [-1.5, -1.5, -2.0, -3.0, -3.0]
    assert memory.returns_to_go.tolist() == [-1.5, -2.0, -3.0, -3.0]
    assert memory.step == 5


def test_warm_up_and_decay(states):
    """Half of the way half the step, then the whole; all weights shrink by the rate times the decay."""
    before = states[0][0]
    start = before.actor.params

    def moved(step, decay=META['weight_decay']):
        hypers = HYPERS._replace(weight_decay=jnp.float32(decay))
        new = UPDATE(before, (), recorded(1), hypers, jnp.int32(step))[0]
        return jax.tree.map(lambda a, b: a - b, new.actor.params, start)

    chex.assert_trees_all_close(jax.tree.map(lambda x: 2 * x, moved(4)), moved(9), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(moved(9), moved(5000))
    shrunk = jax.tree.map(lambda a, b: a - b, moved(9, 5.0), moved(9, 0.0))
    chex.assert_trees_all_close(shrunk, jax.tree.map(lambda x: -META['lr'] * 5 * x, start), rtol=1e-4, atol=1e-6)


def test_dropout_keeps_means_and_is_the_keys():
    zeros_of = jax.jit(lambda key: dropped(jnp.full((100, 100), 3.0), 0.25, key))
    x = zeros_of(jax.random.key(0))
    np.testing.assert_allclose(np.unique(x), [0, 4], rtol=1e-6)
    assert abs(np.mean(x == 0) - 0.25) < 0.02
    assert dropped(x, 0.25, None) is x
    params = {'params': model('dt/before')['params']['Transformer_0']}
    tokens, real = jnp.ones((2, 16)), jnp.ones(2)
    apply = jax.jit(lambda key: Transformer(2, 2, 0.5).apply(params, tokens, real, key))
    first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    for rate in (0.0, 0.5):
        drawn = jax.eval_shape(algorithm(dropout=rate).draw, jax.random.key(0), TWO_STEPS)
        assert (drawn.key is None) == (rate == 0)


def two_steps():
    """Episodes of two steps that return 0 or -1, this at the first step, and begin at 1 or -1.

    The first action is 1/2 where the return is 0 and -1/2 where it is -1; the second, at 0, half of where it began.
    """
    start, earned = np.array([1, 1, -1, -1]), np.array([0, -1, 0, -1])
    first = np.stack([start, 0.5 + earned, earned, np.ones(4), np.zeros(4)], axis=1)
    second = np.stack([np.zeros(4), start / 2, np.zeros(4), np.zeros(4), np.zeros(4)], axis=1)
    rows = np.stack([first, second], axis=1).reshape(8, 5)
    begin = np.arange(8) // 2 * 2
    returns_to_go = np.stack([earned, np.zeros(4)], axis=1).ravel()
    return Data(*map(jnp.asarray, (rows.astype(np.float32), begin, begin + 1, returns_to_go.astype(np.float32))))


TWO_STEPS = two_steps()


@pytest.fixture(scope='module')
def small():
    """An algorithm for it, and where it starts."""
    sizes = {'context': 2, 'num_layers': 1, 'head_dim': 32, 'num_timesteps': 8, 'batch_size': 32, 'warmup_steps': 1}
    method = dt.make(options(METHOD, **sizes, dropout=0.0, reward_scale=1.0), 1, 1)
    return method, jax.jit(method.init)(jax.random.key(0))


def test_it_does_what_returned_so_much_and_remembers(small):
    method, learner = small

    @jax.jit
    def learn(learner, keys):
        hypers = hyperparameters(METHOD, actor_lr=3e-3)
        one = lambda learner, key: method.update(learner, (), method.draw(key, TWO_STEPS), hypers, jnp.int32(0))
        return jax.lax.scan(one, learner, keys)

    learner, _ = learn(learner, jax.random.split(jax.random.key(1), 200))
    act = jax.jit(method.act)
    for target in (0.0, -1.0):
        policy = method.policy(learner, (), hyperparameters(METHOD, target_return=target))
        for start in (1.0, -1.0):
            action, memory = act(policy, method.memory(), jnp.array([start]), jnp.float32(0))
            np.testing.assert_allclose(action, 0.5 + target, atol=0.05)
            action, memory = act(policy, memory, jnp.zeros(1), jnp.float32(target))
            np.testing.assert_allclose(action, start / 2, atol=0.05)


def test_weights_start_as_the_authors(small):
    """The transformer's from N(0, 0.02²), the others as PyTorch's layers, the table of timesteps from N(0, 1)."""
    params = small[1].actor.params['params']
    inside = params['Transformer_0']['Block_0']
    for name in ('Dense_0', 'Dense_1', 'Dense_2', 'Dense_3'):
        assert abs(float(inside[name]['kernel'].std()) - 0.02) < 2e-3
        assert not inside[name]['bias'].any()
    assert abs(float(params['Embed_0']['embedding'].std()) - 1) < 0.2
    for name, inputs in (('Dense_0', 1), ('Dense_1', 1), ('Dense_2', 1), ('Dense_3', 32)):
        kernel, bias = params[name]['kernel'], params[name]['bias']
        assert 0.5 * inputs**-0.5 < jnp.abs(kernel).max() <= inputs**-0.5
        assert 0 < jnp.abs(bias).max() <= inputs**-0.5
