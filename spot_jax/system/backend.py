"""What JAX computes on, and where its compiled programs are kept: looked at before anything long begins."""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import jax

from spot_jax.system.errors import InputError


def require_device() -> None:
    """Raises InputError if JAX has nothing to compute on, such as `JAX_PLATFORMS=cuda` without a GPU."""
    try:
        jax.local_devices()
    except Exception as error:  # each platform raises its own kinds
        reason = (str(error).splitlines() or ['there is none'])[0]
        raise InputError(
            f'JAX cannot use a device of JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: {reason}'
        ) from error


def num_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def has_one_core() -> bool:
    """Whether programs run on one CPU core, so that what another asks for meanwhile waits until the first has ended."""
    return jax.default_backend() == 'cpu' and num_cores() == 1


def keep_compiled() -> None:
    """Keeps compiled programs in `JAX_COMPILATION_CACHE_DIR`, else `~/.cache/spot_jax`; nowhere if that cannot be."""
    # a disk that fills up later: JAX goes on without
    warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
    chosen = os.environ.get('JAX_COMPILATION_CACHE_DIR') or '~/.cache/spot_jax'
    if '://' in chosen:  # in a cloud: JAX's own matter
        return
    folder = None
    try:
        folder = Path(chosen).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: there is no home directory
        print(f'compiled programs are not kept ({error}): JAX_COMPILATION_CACHE_DIR chooses a folder', file=sys.stderr)
        folder = None
    jax.config.update('jax_compilation_cache_dir', str(folder) if folder else None)
