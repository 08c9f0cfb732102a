"""The floors of the package: a room (a folder, or a command) imports only from those on the floors before its own."""

import ast
from pathlib import Path

ORDER = [
    'core system',
    'methods storage acting population',
    'pictures data',
    'behavior',
    'recipes',
    'run datasets',
    'benchmark main evaluate plot report',
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
        elif isinstance(node, ast.Import):
            names |= {alias.name.split('.')[1] for alias in node.names if alias.name.startswith('spot_jax.')}
        assert not isinstance(node, ast.ImportFrom) or node.level == 0, f'{path}: name modules in full'
    return names


def test_imports_go_down_only():
    for path in PACKAGE.rglob('*.py'):
        module = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if module == '__init__':
            continue
        for name in imported(path) - {module}:
            assert LAYER[name] < LAYER[module], f'{module} imports {name}'
