"""Folders of runs that nobody trained: what a run writes, with made-up scores."""

import csv
import json

from tiny import tiny

from spot_jax.run.config import members
from spot_jax.run.results import EVALUATION
from spot_jax.storage import folder

VERSIONS = {'jax': '0.10.2', 'numpy': '2.4.6'}


def results_of(config, successes, diverged=(), sha256='d' * 64, **more):
    """What results.json has of a maze's run; `successes` are the members' shares of episodes."""
    episodes = config.evaluation.episodes
    found = []
    for i, (member, success) in enumerate(zip(members(config).members, successes, strict=True)):
        returns = [float(e < round(success * episodes)) for e in range(episodes)]
        score = {'returns': returns, 'lengths': [9] * episodes, 'success_rate': success, 'normalized_score': None}
        found.append(
            {
                'seed': member.seed,
                'hyperparameters': member.hyperparameters,
                'status': 'diverged' if i in diverged else 'completed',
                'stages': None,
                'gradient_steps': 4 if i in diverged else config.offline.steps,
                'evaluation': score,
            }
        )
    return {
        'dataset_id': config.dataset_id,
        'dataset_sha256': sha256,
        'environment_id': 'spot_jax/PointMaze-UMaze-v0',
        'reference_returns': None,
        'algorithm': 'a name of then',
        'wall_clock_s': {'offline': 2.0, 'evaluation': 1.0},
        'members': found,
        'versions': VERSIONS,
        **more,
    }


def write_metrics(workdir, config, successes, steps):
    """metrics.csv with evaluations of every member at some steps."""
    everyone = members(config).members
    columns = ['phase', 'gradient_steps', 'member', 'seed', *everyone[0].hyperparameters]
    columns += [f'evaluation/{name}' for name in EVALUATION]
    with (workdir / 'metrics.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
        writer.writeheader()
        for step in steps:
            for member, success in zip(everyone, successes, strict=True):
                row = {'phase': 'offline', 'gradient_steps': step, 'member': member.number, 'seed': member.seed}
                scores = {'evaluation/return': success, 'evaluation/length': 9, 'evaluation/success_rate': success}
                writer.writerow(row | member.hyperparameters | scores)


def make_run(workdir, successes, diverged=(), finished=True, sha256='d' * 64, more=None, **changes):
    """Writes a run of `tiny` with `changes` of its config; returns the config."""
    config = tiny(seeds=tuple(range(len(successes))), **changes) if 'seeds' not in changes else tiny(**changes)
    workdir.mkdir(parents=True)
    folder.write_config(config, workdir)
    write_metrics(workdir, config, successes, (20, config.offline.steps) if finished else (20,))
    if finished:
        found = results_of(config, successes, diverged, sha256, **(more or {}))
        (workdir / 'results.json').write_text(json.dumps(found))
    return config
