"""What an option of a config takes, as data: kinds of values, with the words that tell of them."""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

MAX_SEED = 2**32 - 1  # seeds are uint32
MAX_STEPS = 10**9 - 1  # of a phase: counters are int32, and checkpoints of a phase are numbered below the next one's
MAX_SIZE = 2**31 - 1  # of an array's axis: indices are int32
SMALL, LARGE = 1e-30, 1e30  # float32 holds them, their products with small numbers, and their inverses


class Takes(NamedTuple):
    """The values that a field takes."""

    kind: type  # Python's; of an optional field, that of the values that are not None
    words: str  # what a value must be
    fits: Callable[[Any], bool]
    read: Callable[[str], Any]  # from the command line; raises ValueError


class Field(NamedTuple):
    """One option."""

    default: Any  # None: no value
    takes: Takes
    help: str


def whole(low: int = 0, high: int = MAX_SIZE) -> Takes:
    """Integers from `low` to `high`; booleans are none."""
    fits = lambda value: type(value) is int and low <= value <= high
    return Takes(int, f'a whole number from {low} to {high}', fits, int)


def real(low: float = 0.0, high: float = LARGE) -> Takes:
    """Finite numbers from `low` to `high`; booleans are none."""
    fits = lambda value: type(value) in (int, float) and low <= value <= high  # of NaN, too, this is false
    return Takes(float, f'a number from {low:g} to {high:g}', fits, float)


def flag() -> Takes:
    """True or False."""
    names = {'true': True, 't': True, 'yes': True, '1': True, 'false': False, 'f': False, 'no': False, '0': False}

    def read(text: str) -> bool:
        if text.lower() not in names:
            raise ValueError
        return names[text.lower()]

    return Takes(bool, 'true or false', lambda value: type(value) is bool, read)


def text(words: str) -> Takes:
    """A string of printable characters that is not empty."""
    fits = lambda value: isinstance(value, str) and bool(value.strip()) and value.isprintable() and len(value) < 4096
    return Takes(str, words, fits, str)


def matching(pattern: str, words: str) -> Takes:
    """A string of printable characters that a regular expression matches."""
    fits = lambda value: isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value) is not None
    return Takes(str, words, fits, str)


def choice(names: Collection[str]) -> Takes:
    """One of several names."""
    return Takes(str, f'one of {", ".join(names)}', lambda value: isinstance(value, str) and value in names, str)


def optional(takes: Takes) -> Takes:
    """None, or what `takes` says."""
    fits = lambda value: value is None or takes.fits(value)
    read = lambda text: None if text.lower() == 'none' else takes.read(text)
    return Takes(takes.kind, f'{takes.words}, or None', fits, read)


def either(*choices: Takes) -> Takes:
    """What one of `choices`, of one kind, takes."""
    words = ', or '.join(dict.fromkeys(takes.words for takes in choices))
    return Takes(choices[0].kind, words, lambda value: any(takes.fits(value) for takes in choices), choices[0].read)


def several(item: Takes, least: int = 0, most: int = 10_000, distinct: bool = False) -> Takes:
    """A tuple of `least` to `most` items, `A,B,...` on the command line, with no value twice if `distinct`."""

    def fits(value: Any) -> bool:
        if not isinstance(value, tuple | list) or not least <= len(value) <= most:
            return False
        return all(map(item.fits, value)) and (not distinct or len(set(value)) == len(value))

    def read(text: str) -> tuple[Any, ...]:
        inner = text.strip()
        if inner[:1] + inner[-1:] in ('()', '[]'):
            inner = inner[1:-1]
        parts = inner.strip().removesuffix(',')
        return tuple(item.read(part.strip()) for part in parts.split(',')) if parts else ()

    number = f'{least} values' if least == most else f'{least} to {most} values'
    words = f'A,B,... of {number}, each {item.words}{", none of them twice" * distinct}'
    return Takes(tuple, words, fits, read)


POSITIVE = real(SMALL)
SHARE = real(0, 1)
STEPS = whole(0, MAX_STEPS)
SOME_STEPS = whole(1, MAX_STEPS)
WORKERS = whole(0, 1024)
FOLDER = optional(text("a run's folder"))
HIDDEN_DIMS = several(whole(1), 1, 16)
