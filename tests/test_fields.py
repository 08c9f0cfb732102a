"""Every field of a config has a range, and holds what is in it and nothing else."""

import math

import pytest
from tiny import tiny

from spot_jax.methods import METHODS, hyperparameters
from spot_jax.run.config import default_config, flattened, lookup, validate
from spot_jax.run.fields import FIELDS, problem, shown
from spot_jax.system.errors import InputError

NUMBERS = [path for path, field in FIELDS.items() if field.takes.kind in (int, float)]
MAY_BE_NEGATIVE = (
    *('episodes.min_return', 'rebrac.reward_shift', 'cql.reward_shift', 'dt.reward_shift'),
    *('cql.threshold', 'grid.threshold', 'dt.target_return', 'grid.target_return'),
)
SEVERAL = [path for path, field in FIELDS.items() if field.takes.kind is tuple]
NO_NUMBERS = (True, '1', math.nan, math.inf, -math.inf, 1e300, 10**400, -1, -0.5, 1 + 1j, (1,), [], {1}, b'1', object())


def test_every_field_has_a_default_in_its_range_and_a_word_of_help():
    values = flattened(default_config())
    assert values.keys() == FIELDS.keys()
    for path, value in values.items():
        assert path == 'dataset_id' or problem(path, value) is None
        assert FIELDS[path].help
    validate(tiny())


@pytest.mark.parametrize('path', NUMBERS)
def test_no_number_is_refused_wherever_one_is_wanted(path):
    for value in NO_NUMBERS:
        if path in MAY_BE_NEGATIVE and value in (-1, -0.5):
            assert problem(path, value) is None
            continue
        message = problem(path, value)
        assert message is not None, value
        assert message.startswith(f'config.{path}=')
        assert '\n' not in message
    if FIELDS[path].takes.kind is int:
        assert problem(path, 1.5)


@pytest.mark.parametrize('path', SEVERAL)
def test_a_bad_one_among_several_is_refused(path):
    for value in NO_NUMBERS[:9]:
        if path in MAY_BE_NEGATIVE and value in (-1, -0.5):
            assert problem(path, (value,)) is None
        else:
            assert problem(path, (value,)), value
    assert problem(path, 1)
    assert problem(path, 'abc')


def test_bounds_of_the_ranges():
    inside = {
        'discount': (0, 1.0),
        'tau': (0, 1),
        'actor.lr': (1e-9, 1e9),
        'seeds': ((0, 2**32 - 1),),
        'cvae.hidden_dims': ((1,), [750, 750]),
        'online.discount': (None, 1),
        'regularizer.weight': (0, 1000),
        'offline.steps': (10**9 - 1,),
        'grid.tau': ((), (0.1, 0.2)),
    }
    outside = {
        'discount': (1.0001,),
        'tau': (2,),
        'actor.lr': (0, 0.0, 1e-300),
        'seeds': ((), (2**32,), (0, 0)),
        'cvae.hidden_dims': ((), (0,), (8, -1), (1.5,)),
        'online.discount': (5,),
        'offline.steps': (0, 10**9),
        'grid.tau': ((2,), (0.1, 0.1)),
        'regularizer.name': (None, 'foo', 3),
        'normalize_q': (1, None, 'true'),
        'dataset_id': (None, '', ' ', 'a\nb', 'a\0', 'x' * 5000),
    }
    for path, values in inside.items():
        assert [problem(path, value) for value in values] == [None] * len(values)
    for path, values in outside.items():
        assert all(problem(path, value) for value in values), path


@pytest.mark.parametrize('method', METHODS)
def test_a_grid_takes_what_the_methods_own_field_takes(method):
    for name, path in hyperparameters(method).items():
        for value in (0, 1e-40, 1, 1.5, 1e20, -1):
            if problem(path, value) is None:
                validate(tiny(method=method, **{f'grid.{name}': (value,)}))
            else:
                with pytest.raises(InputError, match=f'config.grid.{name}='):
                    validate(tiny(method=method, **{f'grid.{name}': (value,)}))


def test_lengths_that_no_run_reads_need_not_fit_its_blocks():
    """Else the command that a report prints, which leaves them out, would be refused for their defaults."""
    fits = {'policy_freq': 3, 'offline.steps': 3000, 'log_interval': 300, 'checkpoint.interval': 0}
    validate(tiny(**fits, **{'evaluation.episodes': 0, 'evaluation.interval': 5000}))
    with pytest.raises(InputError, match=r'evaluation.interval=5000: must be a multiple of policy_freq=3'):
        validate(tiny(**fits, **{'evaluation.episodes': 1, 'evaluation.interval': 5000}))
    taken = {'online.restore': 'runs/off', 'online.steps': 300, 'evaluation.interval': 300}
    validate(tiny(**fits | taken | {'offline.steps': 1_000_000}))
    with pytest.raises(InputError, match=r'offline.steps=1000000: must be a multiple of policy_freq=3'):
        validate(tiny(**fits | {'offline.steps': 1_000_000, 'evaluation.interval': 300}))


def test_one_name_can_have_other_ranges_in_other_methods():
    values = {'grid.temperature': (0, 3.0)}
    validate(tiny(method='iql', **values))
    with pytest.raises(InputError, match=r'grid.temperature=0: must be a number from 1e-30 .*, as config.awac.temp'):
        validate(tiny(method='awac', **values))


def test_the_command_line_reads_what_it_prints():
    for path, value in flattened(tiny(**{'cvae.latent_dim': 3, 'grid.tau': (0.1, 0.2)})).items():
        assert FIELDS[path].takes.read(str(value)) == value


def test_fields_that_are_missing_or_unknown():
    config = tiny()
    with config.unlocked():
        config.cvae.step = 5
    with pytest.raises(InputError, match=r'config\.cvae\.step: there is no such field\. Did you mean "cvae.steps"\?'):
        validate(config)
    with config.unlocked():
        del config.cvae.step, config.cvae['steps']
    with pytest.raises(InputError, match=r'config\.cvae\.steps is missing'):
        validate(config)
    config = tiny()
    with config.unlocked(), config.ignore_type():
        config.grid = ()
    with pytest.raises(InputError, match=r'config\.grid: must be a group of fields'):
        validate(config)
    assert lookup(tiny(), 'cvae.steps') == 20


def test_values_that_cannot_be_printed_are_told_of_on_one_line():
    class Strange:
        def __repr__(self):
            raise RuntimeError

    assert shown(Strange()) == 'a Strange that cannot be printed'
    assert shown(10**10000) == 'a int that cannot be printed'
    assert len(shown('x' * 999)) == 80
    assert '\n' not in shown('a\nb')


def test_the_number_of_members_has_a_bound():
    """A grid grows as a product: a million members would be made for minutes before anything is said."""
    values = tuple(i / 1000 for i in range(1000))
    with pytest.raises(InputError, match=r'config\.seeds and config\.grid make 1000000 members: at most 100000'):
        validate(tiny(**{'seeds': (0,), 'grid.tau': values, 'grid.discount': values}))
