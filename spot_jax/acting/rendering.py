"""Environments that keep pictures of their episodes, rendered without a screen."""

import functools
import io
import math
import os
import subprocess
import sys
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from PIL import Image, ImageOps

from spot_jax.acting.env_pool import MakeEnv
from spot_jax.acting.evaluation import played_by
from spot_jax.system.errors import InputError, first_line

SIZE = 320  # pixels, of each side of a picture
MAX_FPS = 25  # pictures per second of the environment's own pace
BACKENDS = ('egl', 'osmesa')  # of MuJoCo, without a screen, the faster one first

_TRY = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string('<mujoco/>'), 150)
"""


def _problem(backend: str) -> str | None:
    """Why MuJoCo cannot render by a backend, None if it can: tried in a process of its own, which a bad driver ends."""
    command = [sys.executable, '-W', 'ignore', '-c', _TRY]
    try:
        tried = subprocess.run(
            command, env=os.environ | {'MUJOCO_GL': backend}, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return first_line(error)
    reason = [line for line in tried.stderr.splitlines() if line and not line.startswith((' ', 'Exception ignored'))]
    return None if tried.returncode == 0 else (reason or [f'it ended with status {tried.returncode}'])[-1][:200]


@functools.cache
def choose_backend() -> None:
    """Sets `MUJOCO_GL` to what can render without a screen, unless it is set; raises InputError if that cannot."""
    given = os.environ.get('MUJOCO_GL')
    if not given and sys.platform != 'linux':
        return  # MuJoCo's own choice needs no screen there
    problems = []
    for backend in [given] if given else BACKENDS:
        problem = _problem(backend)
        if problem is None:
            os.environ['MUJOCO_GL'] = backend
            return
        problems.append(f'MUJOCO_GL={backend}: {problem}')
    hint = 'set it to egl or osmesa, or leave it unset' if given and given not in BACKENDS else 'or another MUJOCO_GL'
    raise InputError(
        f'MuJoCo cannot render here ({"; ".join(problems)}): install OSMesa (Debian: apt-get install libosmesa6) or '
        f'EGL (libegl1 with a driver), {hint}'
    )


def _aim(env: Any) -> None:
    """Has MuJoCo render at our size, and shows a maze as a map: its own camera leaves out half of it."""
    inner = (env, getattr(env, 'point_env', None), getattr(env, 'ant_env', None))
    for renderer in filter(None, (getattr(owner, 'mujoco_renderer', None) for owner in inner)):
        renderer.width = renderer.height = SIZE
        if hasattr(env, 'maze'):
            cells = max(env.maze.map_length, env.maze.map_width) - 1  # half of the walls around it is enough
            extent = cells * env.maze.maze_size_scaling
            height = env.maze.maze_height * env.maze.maze_size_scaling
            distance = extent / 2 / math.tan(math.radians(45 / 2)) + height  # the camera sees 45 degrees
            renderer.default_cam_config = {
                'lookat': np.zeros(3),
                'distance': distance,
                'azimuth': 90.0,  # x to the right, y upwards, as in `pictures.mazes`
                'elevation': -90.0,
            }


class Clip(NamedTuple):
    """What an episode looked like."""

    pictures: list[bytes]  # PNG, one every `every` steps from the reset on
    every: int
    fps: float  # of the pictures, at the environment's pace


class Filmed(gym.Wrapper):
    """Keeps a picture of its reset and of every so many steps of each episode; raises InputError if it has none."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        pace = env.metadata.get('render_fps') or 30
        self._every = max(1, math.ceil(pace / MAX_FPS))
        self._fps = pace / self._every
        self._steps = 0
        self.clips: list[Clip] = []
        _aim(env.unwrapped)

    def reset(self, **kwargs: Any) -> Any:
        """Resets the environment and begins a clip; see gymnasium."""
        answer = self.env.reset(**kwargs)
        self.clips.append(Clip([], self._every, self._fps))
        self._steps = 0
        self._picture()
        return answer

    def step(self, action: np.ndarray) -> Any:
        """Takes a step; see gymnasium."""
        answer = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0:
            self._picture()
        return answer

    def _picture(self) -> None:
        name = self.spec.id if self.spec else 'the environment'
        try:
            frame = self.env.render()
        except Exception as error:  # graphics libraries raise many kinds
            raise InputError(f'{name} cannot be rendered: {first_line(error)}') from error
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(f'{name} cannot be filmed: it renders no pictures [height, width, 3] of bytes')
        png = io.BytesIO()
        ImageOps.pad(Image.fromarray(frame), (SIZE, SIZE)).save(png, format='png', compress_level=1)
        self.clips[-1].pictures.append(png.getvalue())


class Camera:
    """Films the episodes of an `evaluation.Evaluator` without workers; `make_env` makes what can be rendered."""

    def __init__(self, make_env: MakeEnv):
        self._make_env = make_env
        self._envs: list[Filmed] = []

    def make_env(self) -> gym.Env:
        """What the evaluator is to make."""
        self._envs.append(Filmed(self._make_env()))
        return self._envs[-1]

    def clips(self, num_members: int, num_episodes: int) -> list[list[Clip]]:
        """Each member's episodes, [M][E], after an evaluation of so many."""
        played = played_by(self._envs, num_members, num_episodes)
        return [[env.clips[i] for env, i in episodes] for episodes in played]
