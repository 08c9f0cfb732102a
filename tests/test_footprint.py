"""Runs that cannot fit in memory are refused before anything starts; the estimate never exceeds what XLA takes."""

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny

from spot_jax.benchmark.phases import data_of_rows, prepare
from spot_jax.run import footprint, training
from spot_jax.run.config import validate
from spot_jax.run.liveness import most_stored
from spot_jax.system import memory
from spot_jax.system.errors import InputError
from spot_jax.system.memory import GIB, Part

SIZES = (4, 2)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'regularizer.num_samples': 10**8}, 'what makes minibatches large: batch_size, num_samples'),
        ({'batch_size': 10**8, 'regularizer.name': 'none'}, 'what makes minibatches large: batch_size'),
        ({'actor.hidden_dims': (10**7, 10**7)}, 'the hidden_dims of its networks'),
        ({'critic.hidden_dims': (2**31 - 1,)}, 'hidden_dims'),
        ({'cvae.hidden_dims': (10**6,) * 2}, 'the hidden_dims of its networks'),
        ({'cvae.latent_dim': 2**31 - 1}, 'the hidden_dims of its networks'),
        ({'seeds': tuple(range(300)), 'grid.tau': tuple(i / 299 for i in range(300))}, 'number of seeds and grid'),
        ({'online.steps': 999_999_998, 'seeds': tuple(range(50))}, 'config.online.capacity'),
        ({'online.steps': 2, 'online.capacity': 999_999_999, 'seeds': tuple(range(50))}, 'config.online.capacity'),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_starts(changes, words, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, 'host_memory', lambda: 100 * GIB)
    config = tiny(**changes)
    validate(config)
    with pytest.raises(InputError, match=f'this takes at least .* GiB .*; this machine has 100 GiB: lower .*{words}'):
        training.run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, 'host_memory', lambda: 8 * GIB)
    footprint.check(tiny(), SIZES, 1000)
    # The paper's settings, 16 members online: 5.5 GiB were measured.
    paper = {'cvae.hidden_dims': (750, 750), 'batch_size': 256, 'seeds': tuple(range(16)), 'online.steps': 1_000_000}
    footprint.check(tiny(**paper), (29, 8), 1_000_000)
    with pytest.raises(InputError, match="the members' new transitions"):
        footprint.check(tiny(**paper | {'seeds': tuple(range(64))}), (29, 8), 1_000_000)
    footprint.check(tiny(**paper | {'seeds': tuple(range(64)), 'part': (0, 4)}), (29, 8), 1_000_000)
    # The dataset itself counts, too.
    with pytest.raises(InputError, match='the dataset'):
        footprint.check(tiny(), (29, 8), 100_000_000)


@pytest.mark.parametrize(
    ('method', 'changes', 'share'),
    [
        ('spot', {'regularizer.num_samples': 64, 'cvae.hidden_dims': (300,), 'batch_size': 128}, 0.25),
        ('dt', {'dt.context': 10, 'dt.num_layers': 2, 'dt.head_dim': 32}, 0.25),
    ],
)
def test_the_estimate_is_a_lower_bound(method, changes, share):
    config, rows = tiny(method=method, **changes), 1000
    run, arguments = prepare(config, SIZES, 'policy', 2)
    dataset = jax.eval_shape(data_of_rows, jnp.zeros((rows, 2 * SIZES[0] + SIZES[1] + 2)))
    used = run.lower(*jax.eval_shape(arguments), dataset).compile().memory_analysis()
    taken = used.argument_size_in_bytes + used.temp_size_in_bytes
    estimate = sum(part.size for part in footprint.phases(config, SIZES, rows, at_once=2)['offline'])
    assert share * taken < estimate <= taken


def test_what_an_update_stores_by_hand():
    """Of a chain of products, one and the next are there at a time; for the gradients, all three and one more."""

    def loss(kernels, x):
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return jnp.sum(x)

    kernels, x = (jnp.zeros((3, 4)), jnp.zeros((4, 4)), jnp.zeros((4, 4))), jnp.zeros((2, 3))
    product = 4 * 2 * 4
    assert most_stored(jax.make_jaxpr(loss)(kernels, x).jaxpr) == 2 * product
    assert most_stored(jax.make_jaxpr(jax.jit(jax.grad(loss)))(kernels, x).jaxpr) == 4 * product


def test_the_message_names_the_largest_part():
    parts = [Part('a', GIB, 'x'), Part('b', 3 * GIB, 'y')]
    memory.require_room(parts, 4 * GIB, 'it')
    message = r'^this takes at least 4 GiB of memory, 3 of them for b; it has 3.5 GiB: lower y$'
    with pytest.raises(InputError, match=message):
        memory.require_room(parts, 7 * GIB // 2, 'it')
    assert 0 < memory.host_memory() < 2**50
