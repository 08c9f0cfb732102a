"""What a run takes of memory, at least, by the shapes of its arrays: checked before anything starts.

It is a lower bound: what the compiler adds is not known before it has run.
"""

import itertools
import math
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from spot_jax.memory import Part, device_memory, require_room
from spot_jax.population import AT_ONCE

FLOAT = 4  # bytes
ADVICE = 'lower config.batch_size, config.regularizer.num_samples, hidden_dims, or the number of seeds and grid values'
NETWORKS = 'the hidden_dims of config.actor and config.critic, or the number of seeds and grid values'
CVAES = 'config.cvae.hidden_dims, or the number of seeds and values of config.grid.beta'


def _parameters(inputs: int, hidden_dims: Sequence[int], outputs: int) -> int:
    """Of a `networks.MLP`."""
    return sum((a + 1) * b for a, b in itertools.pairwise([inputs, *hidden_dims, outputs]))


def _members(config: ConfigDict) -> tuple[int, int]:
    """How many members this process trains, and how many CVAEs, at least; not one by one, as there may be millions."""
    cvaes = len(config.seeds) * max(1, len(config.grid.beta))
    everyone = cvaes * math.prod(max(1, len(values)) for name, values in config.grid.items() if name != 'beta')
    count = config.part[1]
    return max(1, everyone // count), max(1, cvaes // count)


def phases(
    config: ConfigDict, sizes: tuple[int, int], transitions: int, devices: int = 1, at_once: int = 1
) -> dict[str, list[Part]]:
    """What is in the memory of one of `devices` while each trains `at_once` members at a time, by the run's phases.

    sizes: of observations and actions.
    """
    o, a = sizes
    members, cvaes = (-(-number // devices) for number in _members(config))
    z, row = config.cvae.latent_dim or 2 * a, 2 * o + a + 2
    samples, batch, freq = config.regularizer.num_samples, config.batch_size, config.policy_freq
    actor, critic, cvae = config.actor.hidden_dims, config.critic.hidden_dims, config.cvae.hidden_dims
    policy_size = _parameters(o, actor, a) + 2 * _parameters(o + a, critic, 1)
    cvae_size = _parameters(o + a, cvae, 2 * z) + _parameters(o + z, cvae, a)
    uses_density = config.regularizer.name == 'support'

    def bytes_of(name: str, numbers: int, lower: str) -> Part:
        return Part(name, FLOAT * numbers, lower)

    def minibatches(numbers: int, lower: str) -> Part:
        return bytes_of("one update's minibatches", min(at_once, members) * numbers, lower)

    # A policy has its targets and Adam's two moments, a CVAE in training the moments. Of a minibatch, the widest
    # layer's outputs and the noise that goes in wait for the gradient.
    always = [
        bytes_of('the policies with their optimisers', 4 * members * policy_size, NETWORKS),
        bytes_of('the dataset', transitions * row, "the dataset's size"),
    ]
    found: dict[str, list[Part]] = {}
    if uses_density and config.cvae.restore is None and config.online.restore is None:
        states = bytes_of('the CVAEs with their optimisers', 3 * cvaes * cvae_size, CVAES)
        found['cvae'] = [*always, states, minibatches(batch * (row + max(cvae)), 'config.batch_size')]
    largest = max(freq * batch * (row + 2 * max(critic)), batch * max(actor))
    lower = 'config.batch_size'
    if uses_density:
        largest = max(largest, batch * samples * (z + max(cvae)))
        lower += ' or config.regularizer.num_samples'
        always.append(bytes_of('the CVAEs', cvaes * cvae_size, CVAES))
    found['offline'] = [*always, minibatches(largest, lower)]
    if config.online.steps:
        kept = config.online.capacity or config.online.steps
        lower = 'config.online.capacity, or the number of seeds and grid values'
        ring = bytes_of("the members' new transitions", members * kept * row, lower)
        found['online'] = [*found['offline'], ring]
    return found


def check(config: ConfigDict, sizes: tuple[int, int] = (1, 1), transitions: int = 0) -> None:
    """Raises InputError if a run cannot fit in memory; without `sizes` and `transitions`, on any dataset."""
    devices = jax.local_devices()
    platform = devices[0].platform
    shared = platform == 'cpu'  # all devices have the host's memory
    number = 1 if shared else len(devices)
    at_once = AT_ONCE.get(platform, math.prod(_members(config)))
    where = 'this machine' if shared else f'a {devices[0].device_kind}'
    for parts in phases(config, sizes, transitions, number, at_once).values():
        require_room(parts, device_memory(devices[0]), where)
