"""Command lines as people type them: defaults, help, config files from anywhere, and every mistake in one line."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from spot_jax import __main__ as commands
from spot_jax import evaluate, plot
from spot_jax.behavior import __main__ as behavior
from spot_jax.benchmark import __main__ as benchmark
from spot_jax.benchmark import memory, online
from spot_jax.datasets import __main__ as datasets
from spot_jax.main import cli, parse
from spot_jax.run import training
from spot_jax.run.fields import FIELDS
from spot_jax.system.errors import InputError

ROOT = Path(__file__).parents[1]
ANTMAZE = str(ROOT / 'experiments' / 'antmaze.py')


def parsed(*arguments):
    return parse(['main', *arguments])


def refused(capsys, *arguments):
    """What is said of a bad command line: one line on stderr, status 2."""
    assert cli(['main', *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.startswith('error: ')
    assert captured.err.count('\n') == 1
    return captured.err


@pytest.mark.parametrize(
    ('preset', 'folder'),
    [
        ('', 'umaze'),
        (':', 'umaze'),
        (':medium-play', 'medium-play'),
        (':umaze,d4rl', 'umaze_d4rl'),
        (':umaze,d4rl,finetune', 'umaze_d4rl_finetune'),
    ],
)
def test_default_workdir(preset, folder):
    assert parsed(f'--config={ANTMAZE}{preset}')[1] == Path('runs', 'antmaze', folder)


def test_a_line_names_the_workdir_once_the_run_begins(monkeypatch, capsys, tmp_path):
    ran = []

    class Run:
        handle_signal = print

        def __init__(self, config, workdir, dataset):
            if config.offline.steps == 2:
                raise InputError('x')
            ran.append((config.seeds, workdir))

        def go(self):
            return 0

    monkeypatch.setattr(training, 'Run', Run)
    monkeypatch.chdir(tmp_path)
    assert cli(['main', '--config=experiments/antmaze.py', '--config.offline.steps=2']) == 2
    assert capsys.readouterr() == ('', 'error: x\n')
    # The repository's own files are found from anywhere; one in the current folder goes first.
    assert cli(['main', '--config=experiments/antmaze.py', '--config.seeds=0,1']) == 0
    assert ran == [((0, 1), tmp_path / 'runs' / 'antmaze' / 'umaze')]
    assert capsys.readouterr().out == 'the run is in runs/antmaze/umaze: the same again resumes it\n'
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'experiments' / 'antmaze.py').write_text(
        'from spot_jax import default_config\ndef get_config():\n  return default_config()\n'
    )
    assert 'config.dataset_id=None' in refused(capsys, '--config=experiments/antmaze.py')


def test_running_out_of_memory_is_one_line(monkeypatch, capsys):
    def run(config, workdir):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of\nmemory')

    monkeypatch.setattr(training, 'run', run)
    assert cli(['main', f'--config={ANTMAZE}']) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: out of memory (')
    assert 'large: batch_size, num_samples' in err
    assert err.count('\n') == 1


def test_values_of_every_kind():
    config, _ = parsed(
        f'--config={ANTMAZE}:umaze',
        *(
            '--config.seeds=(3, 4)',
            '--config.cvae.hidden_dims=8',
            '--config.grid.tau=0.1,0.2',
            '--config.discount',
            '1',
        ),
        *('--noconfig.normalize_q', '--config.normalize_observations', '--config.cvae.latent_dim=None'),
        *('--config.actor.output_init=none', '--config.batch_size=1', '--config.batch_size=2', '--workdir=x'),
    )
    assert (config.seeds, config.cvae.hidden_dims, config.grid.tau) == ((3, 4), (8,), (0.1, 0.2))
    assert (config.discount, config.normalize_q, config.normalize_observations) == (1.0, False, True)
    assert (config.cvae.latent_dim, config.actor.output_init, config.batch_size) == (None, None, 2)


def write(path, body, returns='default_config()', arguments=''):
    path.write_text(f'from spot_jax import default_config\n{body}\ndef get_config({arguments}):\n  return {returns}\n')
    return f'--config={path}'


def test_a_config_file_imports_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'my_common_settings.py').write_text('SEEDS = (7,)\n')
    (tmp_path / 'my_late_settings.py').write_text("ID = 'a/b-v0'\n")
    body = """import my_common_settings
def make():
    import my_late_settings
    config = default_config()
    config.seeds, config.dataset_id = my_common_settings.SEEDS, my_late_settings.ID
    config.cvae.steps = config.get_ref('batch_size') * 2
    return config"""
    before = list(sys.path)
    config, workdir = parsed(write(tmp_path / 'mine.py', body, 'make()'), '--config.batch_size=50')
    assert (config.seeds, config.dataset_id, config.cvae.steps) == ((7,), 'a/b-v0', 100)  # references follow overrides
    assert workdir == Path('runs', 'mine', 'default')
    assert sys.path == [*before, str(tmp_path)]  # for worker processes; last, so that it hides no library


@pytest.mark.parametrize(
    ('body', 'returns', 'arguments', 'words'),
    [
        ('x = (', '0', '', 'line 2: '),
        ('\0', '0', '', 'null bytes'),
        ('1 / 0', '0', '', 'line 2: ZeroDivisionError: division by zero'),
        ('raise ValueError("two\\nlines")', '0', '', 'two lines'),
        ('import sys; sys.exit(0)', '0', '', 'SystemExit'),
        ('import no_such_module_at_all', '0', '', "No module named 'no_such_module_at_all'"),
        ('def f(): return f()', 'f()', '', 'RecursionError'),
        ('', 'None', '', 'returned a NoneType'),
        ('', '{}', '', 'returned a dict'),
        ('import sys', 'sys.exit()', '', 'line 4: SystemExit'),
        ('', 'default_config().nothing', '', 'nothing'),
        ('', 'default_config()', 'a, b', 'cannot be called with no preset'),
        ('from ml_collections import ConfigDict', 'ConfigDict()', '', 'config.dataset_id is missing'),
        (
            'from ml_collections import ConfigDict',
            'ConfigDict({"seeds": {"a": 1}})',
            '',
            'config.dataset_id is missing',
        ),
        (
            'c = default_config().unlock(); c.lr = 1',
            'c',
            '',
            'config.lr: there is no such field. Did you mean "actor.lr"',
        ),
        ('c = default_config(); c.cvae.steps = c.get_ref("batch_size") / 0', 'c', '', 'ZeroDivision'),
        ('c = default_config(); c.batch_size = 1.5', 'c', '', 'batch_size'),
        ('c = default_config(); c.batch_size = True; c.dataset_id = "a"', 'c', '', 'config.batch_size=True: must be'),
        (
            'c = default_config(); c.batch_size = 10**9999; c.dataset_id = "a"',
            'c',
            '',
            'config.batch_size=a int that cannot be printed: must be',
        ),
        (
            'c = default_config(); c.discount = float("nan"); c.dataset_id = "a"',
            'c',
            '',
            'config.discount=nan: must be',
        ),
        ('class E(BaseException): pass\nraise E', '0', '', 'line 3: E'),
        ('c = default_config()\nc.unlock()\nc["cvae"] = c', 'c', '', 'config.cvae.actor: there is no such field'),
        (
            'c = default_config()\nc.unlock()\ndel c["grid"]\nc.grid = 1',
            'c',
            '',
            'config.grid: must be a group of fields',
        ),
        ('c = default_config()\nc.unlock()\nc["seeds"] = c', 'c', '', 'config.'),
    ],
)
def test_broken_config_files(tmp_path, capsys, body, returns, arguments, words):
    assert words in refused(capsys, write(tmp_path / 'config.py', body, returns, arguments))
    assert cli(['main', f'--config={tmp_path / "config.py"}', '--help']) == (
        0 if words.startswith('config.') and '=' in words else 2
    )
    assert 'Traceback' not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / 'config.py']


def test_files_that_are_no_config(tmp_path, capsys):
    (tmp_path / 'bytes.py').write_bytes(b'x = "\xff"')
    (tmp_path / 'variable.py').write_text('get_config = 3')
    (tmp_path / 'empty.py').write_text('')
    for name, words in {
        str(tmp_path): 'no file',
        '/dev/null': 'no file',
        'x' * 5000: 'name too long',
        str(tmp_path / 'none.py'): 'there is no such file',
        str(tmp_path / 'bytes.py'): 'utf-8',
        str(tmp_path / 'variable.py'): 'no function get_config',
        str(tmp_path / 'empty.py'): 'no function get_config',
        str(ROOT / 'README.md'): 'line ',
        f'{ANTMAZE}:umaze,foo': "no option 'foo'",
        f'{ANTMAZE}:\0': 'no preset',
    }.items():
        assert words in refused(capsys, f'--config={name}')


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], '--config=FILE.py[:PRESET] is needed'),
        (['--workdir='], "--workdir='': name a folder, or leave the option out: it then is runs/antmaze/umaze"),
        (['--workdir=a\nb'], '--workdir='),
        (['--foo=1'], "unexpected argument '--foo=1'"),
        (['--batch_size=1'], 'Did you mean --config.batch_size?'),
        (['positional'], "unexpected argument 'positional'"),
        (['--config.foo=1'], 'config.foo: there is no such field'),
        (['--config.grid=1'], 'config.grid is a group of fields'),
        (['--config.'], 'config.: there is no such field'),
        (['--config.batch_size'], '--config.batch_size needs a value'),
        (['--config.batch_size', '--workdir=x'], '--config.batch_size needs a value'),
        (['--noconfig.batch_size'], 'only switches can be negated'),
        (['--config.normalize_q=maybe'], "config.normalize_q='maybe': must be true or false"),
        (['--config.batch_size=ten'], "config.batch_size='ten': must be a whole number from 1 to"),
        (['--config.batch_size=' + '9' * 5000], 'must be a whole number from 1 to'),
        (['--config.discount=0.9,0.99'], 'must be a number from 0 to 1; for several, config.grid.discount'),
        (['--config.method=iql', '--config.iql.expectile=0.7,0.9'], 'for several, config.grid.expectile'),
        (['--config.seeds=0,0'], 'none of them twice'),
        (['--config.seeds='], 'config.seeds=()'),
        (['--config.seeds=((((('], "config.seeds='((((('"),
        (['--config.task=' + 'x' * 5000], 'one of locomotion'),
        (['--distributed=foo'], '--distributed=foo: must be auto, or COORDINATOR:PORT,HOSTS,HOST'),
        (['--distributed='], '--distributed=: must be'),
        (['--distributed=localhost:99999,1,0'], 'must be auto'),
        (['--distributed=localhost:1234,2,2'], 'hosts numbered from 0'),
        (['--config.part=2,2'], 'config.part=(2, 2)'),
    ],
)
def test_bad_options(capsys, arguments, words):
    config = [] if not arguments else [f'--config={ANTMAZE}']
    assert words in refused(capsys, *config, *arguments)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            ['cvae.steps=5', 'regularizer.num_samples=2', 'regularizer.name=bc'],
            ['cvae.steps', 'regularizer.num_samples'],
        ),
        (['regularizer.weight=2', 'regularizer.name=none'], ['regularizer.weight']),
        (['regularizer.weight=2', 'grid.regularizer_weight=1,2'], ['regularizer.weight']),
        (['online.capacity=10', 'online.workers=1'], ['online.capacity', 'online.workers']),
        (['evaluation.episodes=0', 'evaluation.workers=3'], ['evaluation.workers']),
        (['online.steps=10', 'online.restore=x', 'seeds=1', 'offline.steps=2'], ['seeds', 'offline.steps']),
        (['cvae.restore=x', 'cvae.steps=2'], ['cvae.steps']),
        (['regularizer.multiplier_lr=2'], ['regularizer.multiplier_lr']),
        (['regularizer.constraint=0.5', 'regularizer.name=bc'], ['regularizer.constraint']),
        (['regularizer.constraint=0.5', 'regularizer.weight=0'], ['regularizer.constraint']),
        (['noise_clip=0', 'policy_noise=0.3'], ['policy_noise']),
        # These have one, or say what the preset says anyway.
        (['regularizer.weight=2', 'regularizer.name=bc', 'cvae.steps=100000'], []),
        (['online.capacity=10', 'online.steps=10', 'evaluation.workers=2', 'cvae.steps=2', 'noise_clip=0.1'], []),
    ],
)
def test_options_without_effect_are_named(capsys, arguments, words):
    parsed(f'--config={ANTMAZE}', *(f'--config.{argument}' for argument in arguments))
    err = capsys.readouterr().err
    assert err.count('\n') == bool(words)
    told = err.removeprefix('without effect in this run: ').strip().split('; ') if words else []
    names = [name for part in told for name in part.split(' (')[0].split(', ')]
    assert sorted(names) == sorted(words)


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull'])
def test_help(capsys, flag):
    assert cli(['main', flag]) == 0
    out = capsys.readouterr().out
    for path, field in FIELDS.items():
        assert f'--config.{path}=' in out
        assert field.help in out
    assert '--workdir' in out
    assert cli(['main', flag, f'--config={ANTMAZE}:medium-play']) == 0
    out = capsys.readouterr().out
    assert 'Presets: umaze (default), umaze-diverse, medium-play' in out
    assert 'finetune   goes on online' in out
    assert '--config.actor.lr=0.0003\n    > 0.0001\n' in out


def test_the_package_lists_its_commands():
    done = subprocess.run([sys.executable, '-m', 'spot_jax'], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    for name in commands.COMMANDS:
        assert f'python -m spot_jax.{name}' in done.stdout
        module = name.split()[0].split('.')
        path = ROOT.joinpath('spot_jax', *module)
        assert path.with_suffix('.py').exists() or (path / '__main__.py').exists()


@pytest.mark.parametrize(
    ('module', 'arguments'),
    [
        (commands, ['nothing']),
        (evaluate, []),
        (evaluate, ['run', '--episodes=0']),
        (evaluate, ['run', '--episodes=10000000000000']),
        (evaluate, ['run', '--episodes=x']),
        (evaluate, ['run', '--member=-1']),
        (evaluate, ['run', '--seed=-1']),
        (evaluate, ['run', f'--seed={2**32}']),
        (evaluate, ['run', '--epis=3']),
        (plot, ['run', '--episodes=-1']),
        (plot, ['run', '--member=1.5']),
        (datasets, []),
        (datasets, ['nothing']),
        (datasets, ['generate', 'x']),
        (datasets, ['generate', 'spot_jax/hopper/random-v0', '--transitions=0']),
        (datasets, ['generate', 'spot_jax/hopper/random-v0', '--seed=-1']),
        (datasets, ['generate', 'spot_jax/hopper/random-v0', '--workers=0']),
        (datasets, ['generate', 'spot_jax/hopper/random-v0', '--transitions=1000000000000']),
        (behavior, []),
        (behavior, ['train', 'dog', '--workdir=x']),
        (behavior, ['train', 'hopper', '--workdir=x', '--steps=0']),
        (behavior, ['train', 'hopper', '--workdir=x', f'--seed={2**70}']),
        (benchmark, ['--members=0']),
        (benchmark, ['--members=']),
        (benchmark, ['--steps=-1']),
        (benchmark, ['--rounds=0']),
        (benchmark, ['--observation-dim=0']),
        (benchmark, ['--config=nowhere.py']),
        (online, ['--members=a']),
        (online, ['--workers=-1']),
        (memory, ['--settings=4']),
        (memory, ['--settings=4x0']),
    ],
)
def test_bad_numbers_of_other_commands(module, arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert module.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    if module in (evaluate, plot) and arguments:  # the folder that they name is wrong, too
        assert arguments[-1].partition('=')[0] in err
    assert not list(tmp_path.iterdir())


def test_what_a_config_file_leaves_to_be_filled_in(tmp_path, capsys):
    body = """from ml_collections.config_dict import required_placeholder
c = default_config().unlock()
del c['dataset_id']
c.dataset_id = required_placeholder(str)"""
    option = write(tmp_path / 'config.py', body, 'c')
    assert 'RequiredValueError' in refused(capsys, option)
    assert parsed(option, '--config.dataset_id=a/b-v0')[0].dataset_id == 'a/b-v0'


@pytest.mark.parametrize('names', ['PRESETS = 5', "OPTIONS = {None: 'x'}", 'OPTIONS, PRESETS = [[1]], True'])
def test_help_of_a_file_that_uses_our_names_for_other_things(tmp_path, capsys, names):
    assert cli(['main', write(tmp_path / 'config.py', f'{names}\nc = default_config()', 'c', ''), '--help']) == 0
    assert '--config.tau=0.005' in capsys.readouterr().out
