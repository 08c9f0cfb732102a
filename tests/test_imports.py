"""The layers of the package: a module imports only from those before it."""

import ast
from pathlib import Path

ORDER = [
    'errors types sharding workers answers',
    'arguments memory backend core',
    'networks train_state tasks checkpoint events specs env_pool scaling',
    'density environments metrics',
    'regularizers evaluation folder pictures',
    'behavior',
    'datasets',
    'methods',
    'fields',
    'population config',
    'config_files effects build',
    'results online footprint',
    'ring_files curves',
    'workdir',
    'restore policy',
    'scoring finetuning evaluations',
    'training evaluate plot',
    'hosts',
    'usage',
    'main benchmark',
    '__main__',
]
LAYER = {name: i for i, names in enumerate(ORDER) for name in names.split()}
PACKAGE = Path(__file__).parents[1] / 'spot_jax'


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'spot_jax':
            parts = node.module.split('.')
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return names


def test_imports_go_down_only():
    for path in PACKAGE.rglob('*.py'):
        module = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if module == '__init__':
            continue
        for name in imported(path) - {module}:
            assert LAYER[name] < LAYER[module], f'{module} imports {name}'
