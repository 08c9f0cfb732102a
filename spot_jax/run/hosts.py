"""A run over several hosts: each trains its part of the members in a folder of its own; the first gathers the results.

The hosts do not talk while they train: what a host computes is what one process with its `config.part` would.
"""

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # its client's keys have no other name
from ml_collections import ConfigDict

from spot_jax.run import results, training
from spot_jax.run.config import members
from spot_jax.run.workdir import read_config
from spot_jax.storage import checkpoint
from spot_jax.storage.folder import held, read_json
from spot_jax.system.errors import ALL_DIVERGED, InputError

SHUTDOWN_TIMEOUT = 7 * 24 * 3600  # seconds: a host that is done waits for the others, however long they take
POLL = 0.5  # seconds
FAILED, BAD_INPUT = 1, 2  # exit statuses


def connect(text: str) -> tuple[int, int]:
    """This host's number and how many there are, from `auto` or `COORDINATOR:PORT,HOSTS,HOST`.

    Raises InputError if they cannot find each other; if that takes JAX's five minutes, it ends the process itself.
    """
    match = re.fullmatch(r'([^,\s]+:(\d{1,5})),(\d{1,6}),(\d{1,6})', text)
    possible = match and 0 < int(match[2]) < 2**16 and int(match[4]) < int(match[3])
    if text != 'auto' and not possible:  # JAX itself would wait for minutes, or end the process
        raise InputError(
            f'--distributed={text}: must be auto, or COORDINATOR:PORT,HOSTS,HOST with hosts numbered from 0'
        )
    jax.config.update('jax_enable_preemption_service', False)  # it would take the signals that stop a run
    try:
        if match is None:
            jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
        else:
            count, index = int(match[3]), int(match[4])
            jax.distributed.initialize(match[1], count, index, shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [''])[0]
        raise InputError(
            f'--distributed={text}: {reason}; give auto (SLURM, Open MPI, TPU pods) or COORDINATOR:PORT,HOSTS,HOST'
        ) from error
    state = distributed.global_state  # jax.process_index() would start the backend: a suite leaves it to its runs
    return state.process_id, state.num_processes


def disconnect() -> None:
    """Once all hosts have called it, each goes its own way."""
    jax.distributed.shutdown()


def folder(workdir: Path, host: int) -> Path:
    """Where a host keeps its part of the run."""
    return workdir / f'host_{host}'


class Notes:
    """What the hosts tell each other: with which exit status each has ended."""

    def __init__(self) -> None:
        self._client: Any = distributed.global_state.client

    def tell(self, host: int, status: int) -> None:
        """Tells the others that a host has ended."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # they have all gone
            self._client.key_value_set(f'spot_jax/ended/{host}', str(status))

    def status(self, host: int) -> int | None:
        """A host's exit status; None while it is at work."""
        try:
            return int(self._client.key_value_try_get(f'spot_jax/ended/{host}'))
        except jax.errors.JaxRuntimeError:
            return None


def _wait(path: Path, notes: Notes) -> None:
    """Waits for a file of the first host; raises InputError if it has ended without it."""
    while True:
        status = notes.status(0)  # asked first: what a host makes, it makes before it ends
        if path.exists():
            return
        _require_well(0, status)
        time.sleep(POLL)


def _require_well(host: int, status: int | None) -> None:
    if status not in (None, 0, ALL_DIVERGED):
        raise InputError(f'host {host} has ended with status {status}: what it printed tells why')


def gather(workdir: Path, count: int) -> str:
    """Writes `results.json` of all hosts' members, in the order of one process's; returns the table for people."""
    reports = [read_json(folder(workdir, host) / 'results.json') for host in range(count)]
    found: dict[int, Any] = {}
    for host, report in enumerate(reports):
        part = members(read_config(folder(workdir, host)))
        found |= dict(zip([m.number for m in part.members], report['members'], strict=True))
    phases = {name for report in reports for name in report['wall_clock_s']}
    slowest = {name: max(report['wall_clock_s'].get(name, 0.0) for report in reports) for name in sorted(phases)}
    whole = reports[0] | {'wall_clock_s': slowest, 'members': [found[number] for number in sorted(found)]}
    checkpoint.write_atomically(workdir / 'results.json', (json.dumps(whole, indent=2) + '\n').encode())
    return results.table(whole)


def run(config: ConfigDict, workdir: Path, host: int, count: int) -> int:
    """`training.run` of this host's part; the first host ends with all results. Returns this host's exit status.

    Raises InputError also if a host that it waits for has ended otherwise than well.
    """
    notes, status = Notes(), FAILED
    try:
        status = _run(config, workdir, host, count, notes)
    except InputError:
        status = BAD_INPUT
        raise
    finally:
        notes.tell(host, status)
    return status


def _run(config: ConfigDict, workdir: Path, host: int, count: int, notes: Notes) -> int:
    if host > 0:
        _wait(folder(workdir, 0) / 'config.json', notes)  # by then the dataset has been made or downloaded, once
    with config.unlocked():
        config.part = (host, count)
    with held(workdir) if host == 0 else contextlib.nullcontext():
        status = training.run(config, folder(workdir, host))
        if host == 0 and not (folder(workdir, 0) / 'results.json').exists():  # it was made longer, and stopped
            (workdir / 'results.json').unlink(missing_ok=True)
        if host == 0 and status in (0, ALL_DIVERGED):
            for other in range(1, count):
                while (theirs := notes.status(other)) is None:
                    time.sleep(POLL)
                _require_well(other, theirs)
            print(gather(workdir, count))  # all written just now: none is an older run's
    return status
