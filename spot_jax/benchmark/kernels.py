"""How many kernels an H100 would launch for one block of the training loop, counted without having one.

XLA compiles ahead of time for a GPU that is only described; its program lists what would be launched. Nothing is tuned
for the device in that, so that a real one may choose other kernels for the products.
"""

import collections
import os
import re
from typing import Any

import jax
from ml_collections import ConfigDict

from spot_jax.benchmark.phases import lower, with_settings
from spot_jax.core import xla
from spot_jax.system.errors import InputError

MEMBERS = (1, 16, 64)
STEPS = 1000  # of a compiled phase: the default log interval
# What XLA wants to know of the device (NVIDIA's data sheet of the H100 SXM, and the CUDA version of jax's plugin).
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  l2_cache_size: 52428800  memory_bandwidth: 3352320000000  device_memory_size: 84929347584
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
}
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 28 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Instructions that only name or arrange values, and loops, which count by what they run.
NO_LAUNCH = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'while'}
# A line of a computation: name, result type (an array, or a tuple with spaces in it), opcode.
INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(', re.MULTILINE)


def computations(hlo: str) -> tuple[dict[str, str], str]:
    """The text of each computation of an optimised program by its name, and the name of the entry."""
    found, entry = {}, ''
    for match in re.finditer(r'^(ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}', hlo, re.MULTILINE | re.DOTALL):
        found[match[2]] = match[3]
        entry = match[2] if match[1] else entry
    return found, entry


def loops(text: str) -> list[tuple[str, int]]:
    """The bodies of the loops in a computation and how often each runs (1 if that is not known)."""
    lines = [line for line in text.splitlines() if ' while(' in line]
    trips = [re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line) for line in lines]
    bodies = [re.search(r'body=%?([\w.\-]+)', line) for line in lines]
    return [(b[1], int(t[1]) if t else 1) for b, t in zip(bodies, trips, strict=True) if b]


def kind(name: str, opcode: str) -> str:
    """What an instruction is to the reader of the table."""
    if opcode in ('dot', 'custom-call') or 'gemm' in name or 'dot' in name:
        return 'products'
    if opcode == 'copy' or name.startswith(('copy', 'wrapped_transpose', 'wrapped_copy')):
        return 'copies'
    return 'fusions' if opcode in ('fusion', 'call') else 'other'


def executed(hlo: str, body: str) -> collections.Counter:
    """Instructions that run in one trip of a loop's body by kind, those of inner loops as often as they run."""
    text = computations(hlo)[0]
    counts: collections.Counter = collections.Counter()
    for name, opcode in INSTRUCTION.findall(text[body]):
        if opcode not in NO_LAUNCH:
            counts[kind(name, opcode)] += 1
    for inner, trips in loops(text[body]):
        for key, n in executed(hlo, inner).items():
            counts[key] += n * trips
    return counts


def per_block(hlo: str, num_blocks: int) -> dict[str, float]:
    """Launches of one block by kind and their `total`, from the optimised program of a phase of `num_blocks` blocks.

    The phase's outermost loop runs over stretches of blocks: what a stretch launches is shared by its blocks.
    """
    found, entry = computations(hlo)
    body, groups = max(loops(found[entry]), key=lambda loop: sum(executed(hlo, loop[0]).values()))
    counts = executed(hlo, body)
    shares = {name: counts[name] * groups / num_blocks for name in ('products', 'fusions', 'copies', 'other')}
    return shares | {'total': sum(counts.values()) * groups / num_blocks}


def h100_sharding() -> Any:
    """Where the described device's arrays lie; raises InputError where jax's CUDA plugin is missing."""
    os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform='cuda', target_config=H100, topology='1x1x1')
    except (RuntimeError, ValueError, NotImplementedError) as error:
        version = jax.__version__
        raise InputError(f"--kernels needs jax's CUDA plugin, no GPU: pip install 'jax[cuda13]=={version}'") from error
    mesh = topologies.make_mesh(topology, (1,), ('devices',))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def launches(config: ConfigDict, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """The launches of a policy block (F critic steps and one actor step) and of a CVAE step for `MEMBERS` members."""
    sharding, rows = h100_sharding(), []
    for phase in ('policy', 'cvae'):
        num_blocks = STEPS // (config.policy_freq if phase == 'policy' else 1)
        for num_members in MEMBERS:
            everyone = with_settings(config, seeds=tuple(range(num_members)))
            lowered = lower(everyone, phase, sizes, STEPS, sharding)
            hlo = lowered.compile(compiler_options=xla.COMPILER_OPTIONS['gpu']).as_text()
            rows.append({'phase': phase, 'members': num_members, **per_block(hlo, num_blocks)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people."""
    lines = ['launches on an H100 of one     members  products  fusions  copies  other  total']
    for row in rows:
        name = 'block of policy updates' if row['phase'] == 'policy' else 'CVAE update'
        figures = ''.join(f'{row[k]:{w}.1f}' for k, w in zip(list(row)[2:], (10, 9, 8, 7, 7), strict=True))
        lines.append(f'{name:30s} {row["members"]:7d}{figures}')
    return '\n'.join(lines)
