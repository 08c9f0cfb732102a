"""What `python -m spot_jax.main --help` prints: the command, a config file's presets, every field."""

import inspect
import textwrap
from typing import Any

from ml_collections import ConfigDict

from spot_jax.methods import METHODS
from spot_jax.run.config import default_config, flattened
from spot_jax.run.config_files import ConfigFile
from spot_jax.run.fields import FIELDS, shown

COMMAND = """\
python -m spot_jax.main --config=FILE.py[:PRESET[,OPTION...]] [--workdir=DIR] [--config.FIELD=VALUE ...]

Trains a population of policies on a dataset. The same command again resumes; with more steps it goes on from its end.
Of a suite (experiments/suite.py), it makes every run.

  --config=FILE.py[:PRESET]  experiment file and preset; with --help, it tells of its presets
  --workdir=DIR              folder of the run; default: runs/FILE/PRESET
  --config.FIELD=VALUE       changes a field of the config; several values as A,B,...
  --distributed=HOSTS        shares the members, or a suite's runs, out over hosts:
                             auto (SLURM, ...) or COORDINATOR:PORT,HOSTS,HOST
  --help                     this text

Exit status: 0, 1 if a file, the disk or the memory fails, 2 for bad input, 3 if every member diverged,
130 or 143 if it was stopped; of a suite 1 if a run failed."""


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return ','.join(map(_value, value))
    return value if isinstance(value, str) and value.isprintable() else shown(value)


def _named(file: ConfigFile, name: str) -> dict[str, Any]:
    """What a config file lists under a name, with what it says of each; nothing if that is no list of names."""
    found = getattr(file.module, name, None)
    if not isinstance(found, dict | list | tuple) or not all(isinstance(each, str) for each in found):
        return {}
    return found if isinstance(found, dict) else dict.fromkeys(found, '')


def presets_text(file: ConfigFile) -> str:
    """What a config file says of itself, its presets and their options."""
    about = inspect.cleandoc(file.module.__doc__ or '')
    lines = [f'{file.name}: {about}' if about else file.name]
    presets, options = (_named(file, name) for name in ('PRESETS', 'OPTIONS'))
    if presets:
        named = [f'{name} (default)' if name == file.default_preset else name for name in presets]
        lines += ['', textwrap.fill(f'Presets: {", ".join(named)}', 118, subsequent_indent='  ')]
    if options:
        told = [f'  {name:<10} {text}'.rstrip() for name, text in options.items()]
        lines += ['', 'Options, after the preset and a comma:', *told]
    if hasattr(file.module, 'read_words'):
        lines += ['', f'Methods, after the preset and a comma: {", ".join(METHODS)}']
    return '\n'.join(lines)


def fields_text(config: ConfigDict | None, named: str = '') -> str:
    """Every field with its default, what it is for and what it takes; those of `config` too where they differ."""
    defaults = flattened(default_config())
    values = flattened(config) if config is not None else defaults
    title = 'Fields and their defaults'
    lines = [f'{title}; > marks the values of {named}:' if config is not None else f'{title}:']
    for path, field in FIELDS.items():
        lines.append(f'  --config.{path}={_value(defaults[path])}')
        if values.get(path) != defaults[path]:
            lines.append(f'    > {_value(values.get(path))}')
        lines.append(f'      {field.help} [{field.takes.words}]')
    return '\n'.join(lines)


def text(file: ConfigFile | None, config: ConfigDict | None) -> str:
    """The whole help."""
    parts = [COMMAND]
    if file is not None:
        parts.append(presets_text(file))
    named = '' if file is None else f'{file.name}:{file.preset or file.default_preset or ""}'.rstrip(':')
    return '\n\n'.join([*parts, fields_text(config, named)])
