"""SPOT (Supported Policy Optimization) and the methods it is compared with, in JAX; see the README.

What a script or a notebook calls: `read_config`, `default_config`, `train`, `load_policy`, `load_density`,
`flatten`; bad input raises `InputError`. They are imported when they are first asked for, so that `import spot_jax` is
quick and does not start JAX.
"""

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

__version__ = '0.1.0'

_PUBLIC = {
    'InputError': ('spot_jax.system.errors', 'InputError'),
    'default_config': ('spot_jax.run.config', 'default_config'),
    'flatten': ('spot_jax.acting.tasks', 'flatten'),
    'load_density': ('spot_jax.run.scoring', 'load'),
    'load_policy': ('spot_jax.run.policy', 'load'),
    'read_config': ('spot_jax.run.config_files', 'read_config'),
    'train': ('spot_jax.run.training', 'run'),
}
__all__ = [*_PUBLIC]


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends a command that is still importing what it needs: an exception there would come out of other libraries."""
    del number, frame
    os.write(2, b'stopped\n')
    os._exit(130)


# As a command, `python -m spot_jax...`; `errors.exit_status` puts Python's own handler back.
if any((a, b.partition('.')[0]) == ('-m', 'spot_jax') for a, b in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)):
    signal.signal(signal.SIGINT, _stop)


def __getattr__(name: str) -> Any:
    """One of the public functions, by its module's name for it."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, function = _PUBLIC[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
