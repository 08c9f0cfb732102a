"""Experiment files: `FILE.py[:PRESET]` to what the file says. Whatever is wrong with one is told of in one line."""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from spot_jax.run.config import check_names, validate
from spot_jax.system.arguments import one_line
from spot_jax.system.errors import InputError

REPOSITORY = Path(__file__).parents[2]


class ConfigFile(NamedTuple):
    """An experiment file, loaded."""

    name: str  # as given, without the preset
    preset: str | None  # as given
    module: types.ModuleType
    get_config: Callable[..., Any]  # of a suite, its `get_suite`
    is_suite: bool = False

    @property
    def default_preset(self) -> str | None:
        """The preset that is taken if none is named; None if the file has none."""
        parameter = next(iter(inspect.signature(self.get_config).parameters.values()), None)
        return parameter.default if parameter is not None and isinstance(parameter.default, str) else None


def find(name: str) -> Path:
    """A file by its path from the current folder; if there is none, from the repository's. Raises InputError."""
    for path in (Path(name), REPOSITORY / name):
        try:
            if path.is_file():
                return path
            if path.exists():
                raise InputError(f'--config={name}: this is no file')
        except (OSError, ValueError) as error:  # too long a name, or no permission
            raise InputError(f'--config={name[:200]}: {one_line(str(error))}') from error
    raise InputError(f'--config={name[:200]}: there is no such file')


def _where(error: BaseException, path: Path) -> str:
    """An exception in words, with the line of the file that it came from."""
    if isinstance(error, SyntaxError):
        return f'line {error.lineno}: {error.msg}' if error.lineno else str(error.msg)
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    try:
        text = str(error)
    except Exception:
        text = ''
    return f'{"line " + str(lines[-1]) + ": " if lines else ""}{type(error).__name__}: {text}'


@contextlib.contextmanager
def _told_in_one_line(name: str, path: Path) -> Iterator[None]:
    """The file is the user's own code: what it raises becomes InputError, `sys.exit` too."""
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # as if it were run: it may import its neighbours
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f'--config={name}: {one_line(_where(error, path))}') from error
    finally:
        # Worker processes, which take over this path, need what it imported; last, as a neighbour may be called as a
        # library is.
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def load(text: str) -> ConfigFile:
    """Runs the file of `FILE.py[:PRESET]`; raises InputError if it cannot be read, fails, or has no `get_config`."""
    name, colon, preset = text.partition(':')
    path = find(name)
    module = types.ModuleType('spot_jax_config_file')
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    with _told_in_one_line(name, path):
        exec(compile(path.read_bytes(), str(path), 'exec'), module.__dict__)
    given = preset if colon else None
    for function in ('get_config', 'get_suite'):
        if callable(getattr(module, function, None)):
            return ConfigFile(name, given, module, getattr(module, function), function == 'get_suite')
    raise InputError(f'--config={name}: it defines no function get_config')


def _called(file: ConfigFile) -> Any:
    """What the file's function returns for the preset."""
    arguments = () if file.preset is None else (file.preset,)
    path, name = find(file.name), 'get_suite' if file.is_suite else 'get_config'
    with _told_in_one_line(file.name, path):
        signature = inspect.signature(file.get_config)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        given = f'the preset {file.preset!r}' if arguments else 'no preset'
        raise InputError(f'--config={file.name}: {name}{signature} cannot be called with {given}') from error
    with _told_in_one_line(file.name, path):
        return file.get_config(*arguments)


def suite_of(file: ConfigFile) -> dict[str, list[str]]:
    """What the file's `get_suite` returns: the runs by the names of their folders, and the arguments of the command.

    Raises InputError if that is something else.
    """
    found = _called(file)
    if not isinstance(found, dict) or not found:
        raise InputError(f'--config={file.name}: get_suite must return a dict of runs')
    for name, arguments in found.items():
        if not isinstance(name, str) or Path(name).is_absolute() or '..' in Path(name).parts or not Path(name).name:
            raise InputError(f'--config={file.name}: a run is called {name!r:.80}: must be the name of a folder')
        if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
            raise InputError(f'--config={file.name}: of the run {name!r:.80}, get_suite must return a list of words')
    return found


def config_of(file: ConfigFile) -> ConfigDict:
    """What the file's `get_config` returns; raises InputError if that is no ConfigDict of the fields that there are."""
    if file.is_suite:
        raise InputError(f'--config={file.name} is a suite: `python -m spot_jax.main` runs it, nothing else does')
    path, config = find(file.name), _called(file)
    with _told_in_one_line(file.name, path):
        if not isinstance(config, ConfigDict):
            raise InputError(
                f'--config={file.name}: get_config returned a {type(config).__name__}; make the config by '
                'spot_jax.run.config.default_config() and return it'
            )
        config = ConfigDict(config)
        check_names(config)
    return config


def resolved(file: ConfigFile, config: ConfigDict) -> ConfigDict:
    """A copy without references between fields; raises InputError if one cannot be worked out."""
    with _told_in_one_line(file.name, find(file.name)):
        copy = ConfigDict(config.copy_and_resolve_references())
    return copy.lock()


def read_config(text: str) -> ConfigDict:
    """The config of `FILE.py[:PRESET]`; raises InputError with one clear line for what is wrong with it."""
    if not isinstance(text, str):
        raise InputError(f'{text!r} names no config: give FILE.py or FILE.py:PRESET, a str')
    file = load(text)
    config = resolved(file, config_of(file))
    validate(config)
    return config
