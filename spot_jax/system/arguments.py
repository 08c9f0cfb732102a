"""Command lines whose mistakes are told of in one line: an argparse parser, and what its options take."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from spot_jax.system.errors import InputError, exit_status

MAX_SEED = 2**32 - 1
MAX_EPISODES = 1_000_000


def one_line(text: str, limit: int = 400) -> str:
    """Words on one line, not too long."""
    line = ' '.join(text.split())
    return line if len(line) <= limit else f'{line[: limit - 3]}...'


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises InputError; options cannot be abbreviated."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raises InputError; argparse calls it."""
        raise InputError(f'{one_line(message)} (`{self.prog} --help` explains)')

    def require_read(self, args: argparse.Namespace, names: Iterable[str], read: bool, why: str) -> None:
        """Raises InputError if one of the options is not as it is by default, while nothing reads it."""
        for name in names:
            if not read and getattr(args, name) != self.get_default(name):
                self.error(f'--{name} {why}')

    def run(self, argv: list[str] | None, command: Callable[[argparse.Namespace], int | None]) -> int:
        """Has `command` do what the arguments say; returns the exit status."""
        return exit_status(lambda: command(self.parse_args(sys.argv[1:] if argv is None else argv)))


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An option's type: whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text[:40]!r} is not a whole number from {low} to {high}')
        return value

    return read


def place(text: str) -> Path:
    """An option's type: the path of a file or a folder. An empty one would be the current folder."""
    if not (text.strip() and text.isprintable()):
        raise argparse.ArgumentTypeError(f'{text[:40]!r} is no name of a file or folder')
    return Path(text)


def pattern(text: str) -> re.Pattern[str]:
    """An option's type: a regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text[:40]!r} is no regular expression: {error}') from error


def png_file(text: str) -> Path:
    """An option's type: the path of a picture."""
    path = place(text)
    if path.suffix.lower() != '.png':
        raise argparse.ArgumentTypeError(f'{text[:40]!r} names no .png file: pictures are PNG')
    return path


def several(item: Callable[[str], int]) -> Callable[[str], list[int]]:
    """An option's type: values separated by commas."""
    return lambda text: [item(part) for part in text.split(',')]
