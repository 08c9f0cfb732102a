"""Installs spot_jax; the bounds are the versions that were installed and tested, up to the next major step."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name='spot_jax',
    version='0.1.0',
    description='Supported Policy Optimization for offline reinforcement learning, in JAX',
    long_description=Path(__file__).with_name('README.md').read_text(),
    long_description_content_type='text/markdown',
    license='MIT',
    packages=find_packages(include=['spot_jax', 'spot_jax.*']),
    package_data={'spot_jax.behavior': ['weights/*'], 'spot_jax.report': ['page.html', 'published.json']},
    python_requires='>=3.11',
    install_requires=[
        'absl-py>=2.1,<3',
        'chex>=0.1.88,<0.2',
        'flax>=0.10.4,<0.13',
        'gymnasium>=1.2,<2',
        'gymnasium-robotics>=1.4,<2',
        'h5py>=3.12,<4',
        'jax>=0.10.2,<0.13',
        'jaxlib>=0.10.2,<0.13',
        'jinja2>=3.1,<4',
        'matplotlib>=3.8.4,<4',
        'minari[hdf5,hf]>=0.5.3,<0.6',
        'ml-collections>=1.0,<2',
        'mujoco>=3.2,<5',
        'numpy>=2,<3',
        'optax>=0.2.4,<0.3',
        'scipy>=1.15,<2',
        'tqdm>=4.66,<5',
    ],
    extras_require={
        'test': [
            'pytest>=8,<10',
            'hypothesis>=6.100,<7',
            'imageio-ffmpeg>=0.5,<1',
            'tensorboard>=2.18,<3',
            'wandb>=0.20,<1',
            'pytest-xdist>=3.6,<4',
            'ruff>=0.12,<0.18',
            'mypy>=1.10,<2',
        ],
        'benchmark': ['torch>=2.6'],
        'video': ['imageio-ffmpeg>=0.5,<1'],
        'wandb': ['wandb>=0.20,<1'],
    },
)
