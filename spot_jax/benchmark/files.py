"""Files for a benchmark's figures: none is replaced, and each is whole or absent."""

import json
import os
from pathlib import Path
from typing import Any

from spot_jax.storage.outputs import require_writable, write_all
from spot_jax.system.errors import InputError


def require_new(*paths: Path | None) -> None:
    """Raises InputError if one of the files that were asked for is there, or cannot be made: before the measuring."""
    for path in paths:
        if path is not None and os.path.lexists(path):
            raise InputError(f'{path} is there already: choose another file')
        if path is not None:
            require_writable(path, 'choose another file')


def write(path: Path | None, data: bytes) -> None:
    """Writes a file, if it was asked for; raises InputError, with nothing left of it, if that fails."""
    if path is not None:
        write_all(path.parent, {path.name: data})


def write_json(path: Path | None, figures: Any) -> None:
    """The same of figures."""
    write(path, (json.dumps(figures, indent=2) + '\n').encode())
