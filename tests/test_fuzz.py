"""Command lines and config files that make no sense, drawn at random from the fields' own names and types.

Each ends with status 2 and a line or two on stderr, without a traceback and with nothing left behind.
"""

import contextlib
import io
import math
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import tiny

from spot_jax import __main__ as commands
from spot_jax import evaluate, plot
from spot_jax.behavior import __main__ as behavior
from spot_jax.benchmark import __main__ as benchmark
from spot_jax.benchmark import memory, online
from spot_jax.datasets import __main__ as datasets
from spot_jax.main import cli
from spot_jax.run import training
from spot_jax.run.config import lookup, validate
from spot_jax.run.fields import FIELDS
from spot_jax.system.errors import InputError

ROOT = Path(__file__).parents[1]
POINTMAZE = ROOT / 'experiments' / 'pointmaze.py'

# Without random seeds of its own: a test must do the same each time.
several_times = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

paths = st.sampled_from(sorted(FIELDS))
odd_numbers = st.sampled_from([math.nan, math.inf, -math.inf, True, False]) | st.sampled_from(
    [0, -1, 1, 2**31, 2**32, -(2**63), 10**30, 10**400, 0.0, -0.0, 1e-320, 1.5, -2.5, 1e39, 1e300]
)
scalars = st.one_of(odd_numbers, st.integers(), st.floats(), st.text(max_size=8), st.none(), st.binary(max_size=3))
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=4),
    st.lists(scalars, max_size=4).map(tuple),
    st.dictionaries(st.text(max_size=3), scalars, max_size=2),
    st.complex_numbers(),
    st.sampled_from([object(), print, Exception, ...]),
)
# What people type: numbers, lists, quotes and brackets that do not fit together.
texts = st.one_of(
    values.map(str).filter(lambda text: len(text) < 500),
    st.text(string.digits + '.,-+e()[]{}"\' ', max_size=12),
    st.text(max_size=12),
)


@pytest.fixture(autouse=True)
def _nothing_runs_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(training, 'run', lambda config, workdir: 0)
    monkeypatch.chdir(tmp_path)
    yield
    assert not [path for path in tmp_path.rglob('*') if path.name != 'config.py']


def ended(command, arguments):
    """The exit status of a command, whose words must be a line on stderr if it is 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(arguments)
    assert status in (0, 2), arguments
    lines = err.getvalue().splitlines()
    assert len(lines) <= 1 + (status == 2), lines  # one may name options without effect
    assert not any('Traceback' in line or len(line) > 1000 for line in lines), lines
    assert (status == 2) == any(line.startswith('error: ') for line in lines), lines
    return status


def run(*arguments):
    return ended(cli, ['main', f'--config={POINTMAZE}', *arguments])


def reads(path, text):
    """The value that a text is for a field; the text itself if it is none."""
    try:
        return FIELDS[path].takes.read(text)
    except ValueError:
        return text


@several_times
@given(paths, texts)
def test_values_that_do_not_fit(path, text):
    assume(not FIELDS[path].takes.fits(reads(path, text)))
    assert run(f'--config.{path}={text}') == 2


@several_times
@given(st.lists(st.tuples(paths, texts), max_size=4))
def test_several_values_at_once(assignments):
    run(*(f'--config.{path}={text}' for path, text in assignments))


@several_times
@given(st.data())
def test_values_that_fit_may_still_be_too_large(data):
    """Each in its range, but not all together: either it runs, or one line says why not."""
    numbers = [path for path, field in FIELDS.items() if field.takes.kind in (int, float)]
    chosen = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=4, unique=True))
    arguments = []
    for path in chosen:
        takes = FIELDS[path].takes
        number = data.draw(st.integers(0, 2**33) if takes.kind is int else st.floats(0, 1e31))
        if takes.fits(number):
            arguments.append(f'--config.{path}={number}')
    run(*arguments)


@several_times
@given(st.text(string.ascii_letters + '._-=,:', max_size=12), texts)
def test_options_that_do_not_exist(name, text):
    assume(name.partition('=')[0] not in {*FIELDS, 'help', 'helpfull', 'helpshort', 'config', 'workdir', ''})
    assert run(f'--config.{name}={text}') == 2
    assume(not name.startswith(('config.', 'noconfig.', 'distributed', 'help', 'workdir', 'config')))
    assert run(f'--{name}', text) == 2


@several_times
@given(
    st.lists(
        st.sampled_from(['--config', '--workdir', '--', '-', '-x', '', '--config.seeds', '--=', '@x', 'a\nb', '=']),
        min_size=1,
    )
)
def test_pieces_of_options(pieces):
    run(*pieces)


@several_times
@given(st.text(max_size=10))
def test_presets_and_files_that_do_not_exist(name):
    assume(name not in ('', 'umaze', 'medium', 'large'))
    assert ended(cli, ['main', f'--config={POINTMAZE}:{name}']) == 2
    assume('pointmaze' not in name)
    assert ended(cli, ['main', f'--config={name}']) == 2


@several_times
@given(paths, values)
def test_configs_from_python(path, value):
    config = tiny()
    parent, _, name = path.rpartition('.')
    with config.unlocked(), config.ignore_type():
        try:
            (config[parent] if parent else config)[name] = value
        except (TypeError, ValueError, KeyError):
            return  # ml_collections itself would not have it
    with contextlib.suppress(InputError):
        validate(config)
        assert FIELDS[path].takes.fits(lookup(config, path))  # ml_collections makes 0.0 of False


@several_times
@given(
    st.integers(0, 1300),
    st.integers(0, 40),
    st.one_of(st.binary(max_size=3), st.sampled_from([b'sys.exit()', b'(', b'\n'])),
)
def test_config_files_with_a_slip_of_the_pen(start, length, inserted):
    source = POINTMAZE.read_bytes()
    Path('config.py').write_bytes(source[:start] + inserted + source[start + length :])
    ended(cli, ['main', '--config=config.py'])


BAD_INTEGERS = st.one_of(
    st.integers(max_value=-1), st.integers(min_value=2**40), st.floats().map(str), st.text(max_size=5)
)
OPTIONS = [
    (evaluate, ['run'], ['episodes', 'member', 'seed']),
    (plot, ['run'], ['episodes', 'member']),
    (datasets, ['generate', 'spot_jax/hopper/random-v0'], ['transitions', 'seed', 'workers']),
    (behavior, ['train', 'hopper', '--workdir=x'], ['steps', 'seed']),
    (benchmark, [], ['members', 'steps', 'rounds', 'observation-dim', 'action-dim']),
    (online, [], ['members', 'workers', 'rounds']),
    (memory, [], ['settings', 'transitions', 'new']),
]


@several_times
@given(st.sampled_from([(m, fixed, option) for m, fixed, options in OPTIONS for option in options]), BAD_INTEGERS)
def test_integers_of_other_commands(command, value):
    module, fixed, option = command
    with contextlib.suppress(ValueError):
        assume(not 0 <= int(str(value)) < 2**40)
    assert ended(module.main, [*fixed, f'--{option}={value}']) == 2


@several_times
@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3))
def test_commands_that_do_not_exist(arguments):
    assume(arguments[0] != 'list' and not any(text.startswith('-h') for text in arguments))
    for module in (commands, datasets, behavior):
        assert ended(module.main, arguments) == 2
