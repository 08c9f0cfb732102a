"""What a run reports: rows of metrics, one line per evaluation, `results.json` and the table at the end."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from spot_jax.acting.evaluation import Episodes, summary
from spot_jax.acting.tasks import Reference, recorded_reference
from spot_jax.core.method import Method
from spot_jax.population.members import Member, Population
from spot_jax.population.program import PhaseState
from spot_jax.system.versions import installed

EVALUATION = ('return', 'length', 'success_rate', 'normalized_score')
LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'gymnasium', 'gymnasium-robotics', 'minari', 'mujoco')

Row = dict[str, Any]


def columns(method: Method, options: Any) -> list[str]:
    """The columns of metrics.csv with these options of the method."""
    return [
        *('phase', 'gradient_steps', 'member', 'seed', *method.hyperparameters._fields),
        *(f'training/{name}' for name in (*method.metrics, *method.more_metrics(options))),
        *(f'evaluation/{name}' for name in EVALUATION),
    ]


def identity(member: Member) -> Row:
    """The columns that tell a member from the others."""
    return {'member': member.number, 'seed': member.seed, **member.hyperparameters}


def _rows(population: Population, phase: str, state: PhaseState, values: list[Row]) -> list[Row]:
    """Every member's `values` behind the columns that each row starts with; diverged members have no more rows."""
    steps, alive = population.per_member(state.gradient_steps), population.per_member(state.alive)
    return [
        {'phase': phase, 'gradient_steps': int(steps[i]), **identity(m), **values[i]}
        for i, m in enumerate(population.members)
        if alive[i]
    ]


def training_rows(population: Population, phase: str, state: PhaseState, metrics: Mapping[str, Any]) -> list[Row]:
    """A row of training metrics (leaves [C] or [C, P]) for every member that is still alive."""
    values = {name: population.per_member(v) for name, v in jax.device_get(dict(metrics)).items()}
    each = [{f'training/{name}': float(v[i]) for name, v in values.items()} for i in range(len(population.members))]
    return _rows(population, phase, state, each)


def evaluation_rows(
    population: Population, phase: str, state: PhaseState, episodes: Episodes, reference: Reference | None
) -> list[Row]:
    """A row of evaluation metrics for every member that is still alive."""
    each = []
    for i in range(len(population.members)):
        result = summary(episodes, i, reference)
        means = {'return': np.mean(result['returns']), 'length': np.mean(result['lengths'])}
        scores = {name: result[name] for name in ('success_rate', 'normalized_score') if result[name] is not None}
        each.append({f'evaluation/{name}': float(v) for name, v in (means | scores).items()})
    return _rows(population, phase, state, each)


def evaluation_line(phase: str, step: int, episodes: Episodes) -> str:
    """One line for people: every member's success rate, or mean return where there is no goal."""
    if episodes.successes is not None:
        return f'{phase} {step}: success of each member ' + ' '.join(f'{x:.2f}' for x in episodes.successes.mean(1))
    return f'{phase} {step}: return of each member ' + ' '.join(f'{x:.1f}' for x in episodes.returns.mean(1))


def results(
    population: Population,
    state: PhaseState,
    shared_alive: np.ndarray | None,
    episodes: Episodes | None,
    reference: Reference | None,
) -> dict[str, Any]:
    """The members' part of `results.json`, and the versions of the libraries.

    `shared_alive` [C] tells whose stages have not diverged; None: there are none.
    """
    stages = None if shared_alive is None else population.per_member(shared_alive)
    alive, steps = population.per_member(state.alive), population.per_member(state.gradient_steps)
    return {
        'members': [
            {
                'seed': m.seed,
                'hyperparameters': m.hyperparameters,
                'status': 'completed' if alive[i] else 'diverged',
                'stages': None if stages is None else 'completed' if stages[i] else 'diverged',
                'gradient_steps': int(steps[i]),
                'evaluation': summary(episodes, i, reference),
            }
            for i, m in enumerate(population.members)
        ],
        'versions': {name: installed(name) for name in LIBRARIES},
    }


def add_online(
    report: dict[str, Any], before: Episodes | None, successes: list[np.ndarray], reference: Reference | None
) -> None:
    """Adds what fine-tuning came to: `offline` and `online` scores, and the cumulative regret.

    The regret is the mean over the online phase's evaluations of 1 − success rate; None without a goal.
    """
    for i, member in enumerate(report['members']):
        member['offline'] = summary(before, i, reference)
        member['online'] = member['evaluation']
        member['regret'] = float(np.mean([1 - success[i] for success in successes])) if len(successes) else None


def table(results: Mapping[str, Any]) -> str:
    """A line per member, for people; after fine-tuning also what the offline policy scored, and the regret."""
    fine_tuned = 'regret' in results['members'][0]
    settings = [m['hyperparameters'] for m in results['members']]
    shown = [name for name in settings[0] if len({s[name] for s in settings}) > 1] or [*settings[0]][:1]
    titles = [f'{name.removeprefix("regularizer_"):>6s}' for name in shown]
    header = (
        f'member  seed  {"  ".join(titles)}  status     return   success  score' + '    offline   regret' * fine_tuned
    )
    lines = [f'\n{results["algorithm"]} on {results["dataset_id"]}', header]
    mean = lambda e: np.mean(e['returns']) if e['returns'] else None
    for i, m in enumerate(results['members']):
        e = m['evaluation']
        cells = [mean(e), e['success_rate'], e['normalized_score']]
        if fine_tuned:
            before = m['offline']
            cells += [mean(before) if before['success_rate'] is None else before['success_rate'], m['regret']]
        text = '  '.join('      -' if c is None else f'{c:7.2f}' for c in cells)
        values = '  '.join(f'{m["hyperparameters"][n]:{len(title)}g}' for n, title in zip(shown, titles, strict=True))
        lines.append(f'{i:6d}  {m["seed"]:4d}  {values}  {m["status"]:9s}  {text}')
    reference = recorded_reference(results)
    if reference and any(m['evaluation']['normalized_score'] is not None for m in results['members']):
        lines.append(f'score: {reference}')
    return '\n'.join(lines)
