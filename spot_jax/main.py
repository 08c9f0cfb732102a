"""`python -m spot_jax.main --config=experiments/antmaze.py:umaze [--workdir=DIR] [--config.FIELD=VALUE ...]`."""

import argparse
import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from spot_jax.run import usage
from spot_jax.run.config import is_group, lookup, require, require_part, similar, validate
from spot_jax.run.config_files import ConfigFile, config_of, load, resolved, suite_of
from spot_jax.run.effects import require_that_grids_are_read, without_effect
from spot_jax.run.fields import FIELDS, problem
from spot_jax.system.arguments import Parser, one_line
from spot_jax.system.errors import InputError, exit_status

ASSIGNMENT = re.compile(r'--?(no)?config\.([^=]*)(?:=(.*))?', re.DOTALL)


def _split(argv: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The options, and what `--config.FIELD=VALUE` say, in order. Raises InputError on anything else."""
    assignments, rest, arguments = [], [], list(argv[1:])
    while arguments:
        argument = arguments.pop(0)
        match = ASSIGNMENT.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        negated, path, value = match.groups()
        require(
            not is_group(path), f'config.{path} is a group of fields: set them one by one, --config.{path}.NAME=...'
        )
        if path not in FIELDS:
            raise InputError(f'config.{path}: there is no such field{similar(path)}')
        if value is None and FIELDS[path].takes.kind is bool:
            value = 'false' if negated else 'true'
        elif negated:
            raise InputError(f'{argument}: only switches can be negated so')
        elif value is None:
            require(bool(arguments) and not arguments[0].startswith('--'), f'{argument} needs a value')
            value = arguments.pop(0)
        assignments.append((path, value))
    parser = Parser(prog='python -m spot_jax.main', add_help=False)
    parser.add_argument('--config')
    parser.add_argument('--workdir')
    parser.add_argument('--distributed')
    parser.add_argument('-h', '--help', '--helpfull', '--helpshort', action='store_true')
    options, unknown = parser.parse_known_args(rest)
    if unknown:
        name = unknown[0].removeprefix('--').partition('=')[0]
        meant = f'. Did you mean --config.{name}?' if name in FIELDS else similar(name)
        parser.error(f'unexpected argument {unknown[0][:80]!r}{meant}')
    return options, assignments


def _assigned(path: str, text: str) -> Any:
    """The value of a field from the command line; raises InputError if it is none."""
    try:
        value = FIELDS[path].takes.read(text)
    except ValueError:
        value = text
    wrong = problem(path, value)
    require(wrong is None, wrong or '')
    return value


def default_workdir(file: ConfigFile) -> Path:
    """`runs/FILE/PRESET`, with what a folder's name had better not contain made into underscores."""
    names = (Path(file.name).stem, file.preset or file.default_preset or 'default')
    return Path('runs', *(re.sub(r'[^\w.+-]', '_', name).strip('.') or '_' for name in names))


def _workdir(file: ConfigFile, given: str | None) -> Path:
    """The folder that was named, or the default; raises InputError if it cannot be named so."""
    default = default_workdir(file)
    if given is not None and not (given.strip() and given.isprintable()):
        raise InputError(f'--workdir={given!r}: name a folder, or leave the option out: it then is {default}')
    return default if given is None else Path(given)


def _file(options: argparse.Namespace) -> ConfigFile:
    require(bool(options.config), '--config=FILE.py[:PRESET] is needed (`python -m spot_jax.main --help` explains)')
    return load(options.config)


def parse(argv: list[str], file: ConfigFile | None = None) -> tuple[ConfigDict, Path]:
    """The config and the workdir; raises InputError with one clear line for what is wrong with them.

    Options that have no effect in this run are named in one line on stderr. `file` is the config file, if it is loaded.
    """
    config, workdir, idle = _parsed(argv, file)
    if idle:
        print(f'without effect in this run: {"; ".join(idle)}', file=sys.stderr)
    return config, workdir


def _parsed(argv: list[str], file: ConfigFile | None = None) -> tuple[ConfigDict, Path, list[str]]:
    """As `parse`, with the options that have no effect."""
    options, assignments = _split(argv)
    file = file or _file(options)
    config = config_of(file)
    before: dict[str, Any] = {}
    with config.unlocked(), config.ignore_type():
        for path, text in assignments:
            parent, _, name = path.rpartition('.')
            group = config[parent] if parent else config
            with contextlib.suppress(RequiredValueError):  # of a placeholder that the file leaves to be filled in
                before.setdefault(path, group[name])
            group[name] = _assigned(path, text)
    config = resolved(file, config)
    validate(config)
    require_that_grids_are_read(config)
    workdir = _workdir(file, options.workdir)
    return config, workdir, without_effect(config, [p for p, value in before.items() if value != lookup(config, p)])


def jobs(argv: list[str], file: ConfigFile | None = None) -> list[tuple[str, list[str], ConfigDict, Path]]:
    """The runs of a suite's file: names, arguments, configs, folders. With `config.part` or hosts, this one's share.

    What the command line sets, it sets of every run; options without effect in some are named in lines on stderr.
    Raises InputError if one of them makes no sense.
    """
    options, assignments = _split(argv)
    file = file or _file(options)
    fields = dict(assignments)
    require(options.distributed is None or 'part' not in fields, '--distributed and --config.part: give one of them')
    for path in ('method', 'dataset_id'):  # else the folders' names would lie
        require(path not in fields, f'config.{path}: a suite names it for each of its runs, in {file.name}')
    k, n = _assigned('part', fields.pop('part', '0,1'))
    require_part(k, n)
    workdir, found = _workdir(file, options.workdir), []
    idle: dict[str, list[str]] = {}
    for name, arguments in suite_of(file).items():
        words = [*arguments, *(f'--config.{path}={text}' for path, text in fields.items())]
        words.append(f'--workdir={workdir / name}')
        try:
            theirs = _split([argv[0], *words])[0]
            require(not theirs.help and theirs.distributed is None, 'its arguments are those of a run in one process')
            config, place, told = _parsed([argv[0], *words])
        except InputError as error:
            raise InputError(f'{name}: {error}') from error
        for text in told:
            idle.setdefault(text, []).append(name)
        found.append((name, words, config, place))
    for text, names in idle.items():
        print(f'without effect in {", ".join(names)}: {text}', file=sys.stderr)
    if options.distributed is not None:  # last: a host that ends before would be waited for
        from spot_jax.run import hosts

        k, n = hosts.connect(options.distributed)
        hosts.disconnect()
    return found[k::n]


def help_text(name: str | None) -> str:
    """What the command takes, and what the config file `name` offers; raises InputError if it cannot be read."""
    if name is None:
        return usage.text(None, None)
    file = load(name)
    return usage.text(file, None if file.is_suite else resolved(file, config_of(file)))


def cli(argv: list[str]) -> int:
    """Parses and runs; returns the exit status.

    0; 1 (a file, the disk, the memory or a run of a suite fails); 2 (bad input); 3 (all members diverged); 130 or 143
    (stopped).
    """

    def body() -> int:
        options, _ = _split(argv)
        if options.help:
            print(help_text(options.config))
            return 0
        file = _file(options)  # once: a file may do more than define its function
        if file.is_suite:
            from spot_jax.run import suite
            from spot_jax.run.jobs import Job

            return suite.run([Job(*each) for each in jobs(argv, file)])
        config, workdir = parse(argv, file)
        import jax

        jax.config.update('jax_numpy_rank_promotion', 'raise')
        from spot_jax.run import footprint, hosts, training
        from spot_jax.system import backend

        backend.keep_compiled()
        place = None if options.distributed is None else hosts.connect(options.distributed)
        backend.require_device()  # here, since all hosts wait for each other's devices
        try:
            return training.run(config, workdir) if place is None else hosts.run(config, workdir, *place)
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            raise InputError(f'out of memory ({one_line(str(error), 200)}): {footprint.ADVICE}') from error

    return exit_status(body)


if __name__ == '__main__':
    sys.exit(cli(sys.argv))
