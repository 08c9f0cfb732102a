"""What the compiled programs execute: counts that must not creep up, and the precision of their products."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import antmaze
from spot_jax.benchmark import kernels
from spot_jax.benchmark.phases import data_of_rows, lower, with_settings
from spot_jax.methods import spot
from spot_jax.population import program
from spot_jax.run.config import members

SIZES = (29, 8)
# Instructions of a block of AntMaze's policy updates on a CPU, as measured: jax 0.12 has nine fusions more.
EXECUTED = 189 if jax.__version__.startswith('0.10.') else 198
SLACK = 3


@pytest.mark.parametrize('num_members', [1, 4])
def test_a_block_executes_no_more_than_it_did(num_members):
    steps = 2 * program.MAX_STRETCH
    config = with_settings(antmaze.get_config(), seeds=tuple(range(num_members)))
    lowered = lower(config, 'policy', SIZES, steps, None)
    counts = kernels.per_block(lowered.compile().as_text(), steps // 2)
    assert counts['total'] <= EXECUTED + SLACK, counts


PROGRAM = """HloModule phase

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %n = f32[2]{0} negate(%p)
}

%block (a: (s32[], f32[2])) -> (s32[], f32[2]) {
  %a = (s32[], f32[2]{0}) parameter(0)
  %x = f32[2]{0} get-tuple-element(%a), index=1
  %gemm_fusion_dot.3 = f32[2]{0} fusion(%x), kind=kCustom, calls=%fused
  %many.1 = (f32[2]{0}, /*index=1*/f32[2]{0}) fusion(%x), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[2]{0}) tuple(%x, %x)
}

%group (b: (s32[], f32[2])) -> (s32[], f32[2]) {
  %b = (s32[], f32[2]{0}) parameter(0)
  %copy.1 = (s32[], f32[2]{0}) copy(%b)
  ROOT %while.1 = (s32[], f32[2]{0}) while(%b), condition=%c, body=%block, backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main (c: (s32[], f32[2])) -> (s32[], f32[2]) {
  %c = (s32[], f32[2]{0}) parameter(0)
  ROOT %while.2 = (s32[], f32[2]{0}) while(%c), condition=%c, body=%group, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_counting_by_hand():
    """3 groups of 5 blocks: a product and a fusion in each block, a copy in each group."""
    expected = {'products': 1.0, 'fusions': 1.0, 'copies': 0.2, 'other': 0.0, 'total': 2.2}
    assert kernels.per_block(PROGRAM, 15) == pytest.approx(expected)


def tiny_phase(precision):
    config = antmaze.get_config()
    config.update_from_flattened_dict(
        {'batch_size': 16, 'precision': precision, 'cvae.hidden_dims': (8,), 'critic.hidden_dims': (8,)}
    )
    spec, everyone = spot.make_spec(config, 4, 2), members(config)
    seeds = jnp.zeros(1, jnp.uint32)
    data = data_of_rows(np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32))
    params = program.init_stage(seeds, spot.cvae_stage(spec)).learner.params
    algorithm = spot.algorithm(spec)
    arguments = (program.init_policies(seeds, 1, algorithm), seeds, everyone.hyperparameters(), params, data)
    return algorithm, arguments


@pytest.mark.parametrize(
    ('precision', 'in_program'),
    [('float32', 'HIGHEST'), ('tensorfloat32', 'HIGH'), ('bfloat16', 'DEFAULT')],
)
def test_precision_reaches_every_product(precision, in_program):
    algorithm, arguments = tiny_phase(precision)
    text = program.policy_phase(algorithm, 4, precision).lower(*arguments).as_text()
    products = [line for line in text.splitlines() if 'dot_general' in line]
    assert len(products) >= 20
    assert all(re.findall(r'precision = \[(\w+), (\w+)\]', line) == [(in_program,) * 2] for line in products)


def test_float32_changes_nothing_on_a_cpu():
    algorithm, arguments = tiny_phase('float32')
    copy = lambda: jax.tree.map(jnp.copy, arguments[0])
    explicit, _ = program.policy_phase(algorithm, 10)(copy(), *arguments[1:])
    default, _ = program.policy_phase(algorithm, 10, None)(copy(), *arguments[1:])
    for a, b in zip(jax.tree.leaves(explicit), jax.tree.leaves(default), strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_plugin_is_one_clear_line(monkeypatch, capsys):
    from jax.experimental import topologies

    from spot_jax.benchmark.__main__ import main

    def missing(**_):
        raise NotImplementedError('topology not implemented for platform cuda')

    monkeypatch.setattr(topologies, 'get_topology_desc', missing)
    assert main([f'--config={antmaze.__file__}', '--kernels']) == 2
    assert "pip install 'jax[cuda13]==" in capsys.readouterr().err
