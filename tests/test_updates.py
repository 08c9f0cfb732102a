"""What an update of any method does to its networks, told from outside: rates, targets, and by which it acts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_member import hyperparameters, options, train
from test_methods import small

from spot_jax.benchmark.phases import data_of_rows, random_rows
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.methods import METHODS
from spot_jax.methods import hyperparameters as paths_of
from spot_jax.run.build import build
from spot_jax.run.config import members
from spot_jax.run.policy import Actors

SIZES = (4, 2)
DATA = data_of_rows(random_rows(SIZES, 2000))
# What a rate is for besides the network that it is named for.
ALSO = {('cql', 'actor_lr'): {'log_temperature'}, ('cql', 'critic_lr'): {'log_multiplier'}}
# Whose targets move in the first of a block's updates, the actor's before its step, as the source has it.
BEFORE = {('rebrac', 'actor'), ('rebrac', 'critic')}


def parts_of(name):
    """A method's stages and algorithm, one member's hyperparameters, and what its stages come to untrained."""
    config = small(name, **({'dt.warmup_steps': 1} if name == 'dt' else {}))
    parts, shared = build(config, *SIZES), None
    hypers = jax.tree.map(lambda x: x[0, 0], members(config).hyperparameters())
    found = []
    for stage in parts.stages:
        found.append((stage, shared))
        shared = stage.result(stage.init(jax.random.key(1)), shared)
    return found, parts.algorithm, hypers, shared


def networks(learner, name='actor'):
    """A learner's networks by name; one that is a network itself has the given one."""
    if isinstance(learner, TrainState):
        return {name: learner}
    fields = {field: getattr(learner, field) for field in learner.__dataclass_fields__}
    return {field: value for field, value in fields.items() if isinstance(value, TrainState)}


def of_setting(tree, number):
    """What one of several settings has of a tree."""
    return jax.tree.map(lambda x: x[number], tree)


def moves(before, after):
    """Whether any number of a network's parameters has changed, by more than how another program rounds it."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(np.any(np.abs(a - b) > 1e-5) for a, b in pairs)


@pytest.mark.parametrize('name', METHODS)
def test_a_rate_is_its_networks(name):
    """With a rate of 0 the network that it is named for stays as it began, and all others move; each rate in turn."""
    stages, algorithm, hypers, shared = parts_of(name)
    rates = [rate for rate in hypers._fields if rate.endswith('_lr')]
    turns = np.where(np.eye(len(rates), dtype=bool), np.float32(0), np.float32(1e-3))
    hypers, stayed = hypers._replace(**dict(zip(rates, map(jnp.asarray, turns), strict=True))), [set() for _ in rates]
    for part, given in [*stages, (algorithm, shared)]:
        called = getattr(part, 'name', 'actor')
        before = networks(part.init(jax.random.split(jax.random.key(0), 3)[0]), called)
        if part is algorithm and name == 'onestep':  # its policy begins as the behaviour
            before['actor'] = before['actor'].replace(params=given['behavior'])
        after = networks(train(part, hypers, DATA, 2, shared=given), called)
        for turn, found in enumerate(stayed):
            mine = of_setting(after, turn)
            found |= {network for network in before if not moves(before[network].params, mine[network].params)}
    for rate, found in zip(rates, stayed, strict=True):
        own = {rate.removesuffix('_lr')} | ALSO.get((name, rate), set())
        assert own - {'log_multiplier'} <= found <= own | {'log_multiplier'}  # that one moves with `lagrange` alone


@pytest.mark.parametrize('name', [name for name in METHODS if 'tau' in paths_of(name)])
def test_targets_take_in_what_an_update_has_made(name):
    """With τ = 1 a target is the network after its step, not the one from before."""
    _, algorithm, hypers, shared = parts_of(name)
    after = networks(train(algorithm, hypers._replace(tau=jnp.float32(1)), DATA, 1, shared=shared))
    targets = {n: state for n, state in after.items() if isinstance(state, TargetTrainState)}
    assert targets or name == 'onestep'
    for network, state in targets.items():
        close = [
            np.allclose(a, b, rtol=0, atol=1e-6)
            for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.target_params), strict=True)
        ]
        assert all(close) == ((name, network) not in BEFORE)


@pytest.mark.parametrize('name', METHODS)
def test_no_method_acts_by_its_targets(name):
    """Actions are numbers though the targets are none."""
    _, algorithm, hypers, shared = parts_of(name)
    learner = algorithm.init(jax.random.key(0))
    spoiled = lambda x: x.replace(target_params=jax.tree.map(lambda p: p * jnp.nan, x.target_params))
    is_network = lambda x: isinstance(x, TrainState)
    with_targets = lambda x: spoiled(x) if isinstance(x, TargetTrainState) else x
    policies = [
        jax.tree.map(lambda x: jnp.asarray(x)[None], algorithm.policy(state, shared, hypers))
        for state in (learner, jax.tree.map(with_targets, learner, is_leaf=is_network))
    ]
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (1, 1, *jnp.shape(x))), algorithm.memory())
    actors = Actors(algorithm, None)
    inputs = memory, jnp.ones((1, 1, SIZES[0])), jnp.zeros((1, 1)), jnp.ones((1, 1), bool)
    ours, theirs = (np.asarray(actors._act(each, *inputs)[0]) for each in policies)
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours, theirs)


def test_iqls_policy_has_a_mean_within_the_bounds_and_a_least_spread():
    """tanh of 0.5 is its mean, and e⁻⁵ the least standard deviation, as the authors' code has it."""
    method = METHODS['iql']
    algorithm = method.make(options(method, hidden_dims=(8,), schedule_steps=10), *SIZES)
    learner = algorithm.init(jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, learner.actor.params)
    last = params['params']['MLP_0']['Dense_1']
    last['bias'] = last['bias'] + 0.5
    params['params']['log_std'] = params['params']['log_std'] - 9
    policy = algorithm.policy(learner.replace(actor=learner.actor.replace(params=params)), (), hyperparameters(method))
    observation, noise = jnp.ones(SIZES[0]), jnp.ones(SIZES[1])
    action, _ = algorithm.act(policy, algorithm.memory(), observation, jnp.float32(0))
    np.testing.assert_allclose(action, np.tanh(0.5), rtol=1e-6)
    np.testing.assert_allclose(algorithm.explore(policy, observation, noise, 1.0), np.tanh(0.5) + np.exp(-5), rtol=1e-6)
