"""What memory there is, and the refusal of what cannot fit in it: a machine that runs out ends without a word."""

import contextlib
import os
import resource
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax

from spot_jax.system.errors import InputError

GIB = 2**30
CGROUP_LIMITS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')  # of containers


class Part(NamedTuple):
    """Something that takes memory."""

    name: str
    size: int  # bytes, at least
    lower: str  # the options that make it smaller


def host_memory() -> int:
    """Bytes that this machine, or the container or the shell's limit, grants this process."""
    limits = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says 'max'
            limits.append(int(Path(path).read_text()))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def device_memory(device: jax.Device) -> int:
    """Bytes of a device; where it does not say, and for CPUs, the host's."""
    stats = None if device.platform == 'cpu' else device.memory_stats()
    return int((stats or {}).get('bytes_limit') or host_memory())


def require_room(parts: Collection[Part], available: int, where: str) -> None:
    """Raises InputError if `parts` together are larger than `available` bytes."""
    total = sum(part.size for part in parts)
    if total > available:
        largest = max(parts, key=lambda part: part.size)
        raise InputError(
            f'this takes at least {total / GIB:.3g} GiB of memory, {largest.size / GIB:.3g} of them for '
            f'{largest.name}; {where} has {available / GIB:.3g} GiB: lower {largest.lower}'
        )
