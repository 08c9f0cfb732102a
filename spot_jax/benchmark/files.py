"""Files for a benchmark's figures: none is replaced unasked, and each is whole or absent."""

import argparse
import json
from pathlib import Path
from typing import Any

from spot_jax.storage.outputs import require_free, write_all


def require(args: argparse.Namespace, *options: str) -> None:
    """Raises InputError if a file that one of the options asks for cannot be made: before the measuring."""
    for option in options:
        path = getattr(args, option)
        if path is not None:
            require_free([path], args.overwrite, f'--{option}')


def write(path: Path | None, data: bytes) -> None:
    """Writes a file, if it was asked for; raises InputError, with nothing left of it, if that fails."""
    if path is not None:
        write_all(path.parent, {path.name: data})


def write_json(path: Path | None, figures: Any) -> None:
    """The same of figures."""
    write(path, (json.dumps(figures, indent=2) + '\n').encode())
