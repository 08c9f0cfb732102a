"""A run over several hosts: each trains its part of the members in a folder of its own; the first gathers the results.

The hosts do not talk while they train: what a host computes is what one process with its `config.part` would.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from spot_jax import checkpoint, results, training
from spot_jax.config import members
from spot_jax.errors import InputError

SHUTDOWN_TIMEOUT = 7 * 24 * 3600  # seconds: a host that is done waits for the others, however long they take
POLL = 0.5  # seconds


def connect(text: str) -> tuple[int, int]:
    """This host's number and how many there are, from `auto` or `COORDINATOR:PORT,HOSTS,HOST`.

    Raises InputError if they cannot find each other.
    """
    try:
        if text == 'auto':
            jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
        else:
            address, count, index = text.split(',')
            jax.distributed.initialize(address, int(count), int(index), shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [''])[0]
        raise InputError(
            f'--distributed={text}: {reason}; give auto (SLURM, Open MPI, TPU pods) or COORDINATOR:PORT,HOSTS,HOST'
        ) from error
    return jax.process_index(), jax.process_count()


def folder(workdir: Path, host: int) -> Path:
    """Where a host keeps its part of the run."""
    return workdir / f'host_{host}'


def _wait_for(path: Path) -> None:
    """Waits until a file of another host is there."""
    while not path.exists():
        time.sleep(POLL)


def gather(config: ConfigDict, workdir: Path, count: int) -> str:
    """Writes `results.json` of all hosts' members, in the order of one process's; returns the table for people."""
    reports = [json.loads((folder(workdir, host) / 'results.json').read_text()) for host in range(count)]
    found: dict[int, Any] = {}
    for host, report in enumerate(reports):
        part = ConfigDict(config)
        part.part = (host, count)
        found |= dict(zip([m.number for m in members(part).members], report['members'], strict=True))
    phases = {name for report in reports for name in report['wall_clock_s']}
    slowest = {name: max(report['wall_clock_s'].get(name, 0.0) for report in reports) for name in sorted(phases)}
    whole = reports[0] | {'wall_clock_s': slowest, 'members': [found[number] for number in sorted(found)]}
    checkpoint.write_atomically(workdir / 'results.json', (json.dumps(whole, indent=2) + '\n').encode())
    return results.table(whole)


def run(config: ConfigDict, workdir: Path, host: int, count: int) -> int:
    """`training.run` of this host's part; the first host ends with all results. Returns this host's exit status."""
    if host > 0:
        _wait_for(folder(workdir, 0) / 'config.json')  # by then the dataset has been made or downloaded, once
    with config.unlocked():
        config.part = (host, count)
    status = training.run(config, folder(workdir, host))
    if host == 0 and status in (0, training.ALL_DIVERGED):
        for other in range(count):
            _wait_for(folder(workdir, other) / 'results.json')
        print(gather(config, workdir, count))
    return status
