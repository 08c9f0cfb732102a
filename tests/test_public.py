"""What a script or a notebook calls, by the package's own names."""

import subprocess
import sys

import pytest

import spot_jax
from spot_jax.run import config, config_files, policy, scoring, training
from spot_jax.system import errors


def test_public_names():
    assert spot_jax.train is training.run
    assert spot_jax.load_policy is policy.load
    assert spot_jax.load_density is scoring.load
    assert spot_jax.default_config is config.default_config
    assert spot_jax.read_config is config_files.read_config
    assert spot_jax.InputError is errors.InputError
    assert set(spot_jax.__all__) <= set(dir(spot_jax))
    with pytest.raises(AttributeError, match='has no attribute'):
        spot_jax.nothing  # noqa: B018


def test_importing_the_package_does_not_start_jax():
    code = "import sys, spot_jax; print(sorted({'jax', 'gymnasium', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


def test_importing_every_module_starts_no_device():
    """Devices are chosen later, by `--device` and `--distributed`: an array made at import would be on the default."""
    code = """
import pkgutil, importlib, spot_jax
from jax._src import xla_bridge
for module in pkgutil.walk_packages(spot_jax.__path__, 'spot_jax.'):
    if 'torch' not in module.name and not module.name.endswith(('__main__', '.baseline')):
        importlib.import_module(module.name)
        assert not xla_bridge.backends_are_initialized(), module.name
"""
    subprocess.run([sys.executable, '-c', code], check=True)
