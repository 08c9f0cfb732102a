"""Films of episodes: what is filmed is what is played, and what cannot be is told of in one line."""

import io
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from spot_jax import evaluate
from spot_jax.acting import environments, rendering
from spot_jax.acting.evaluation import Evaluator
from spot_jax.acting.rendering import SIZE, Clip
from spot_jax.acting.tasks import TASKS
from spot_jax.pictures import films
from spot_jax.pictures.films import GAP, HOLD, STRIP, Panel
from spot_jax.system.errors import InputError


class Coloured(gym.Env):
    """Ends after 3 + seed % 3 steps; its pictures are of the colour (action, steps, seed)."""

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 50}  # noqa: RUF012 (gymnasium's way)
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(0, 255, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps, self.seed, self.action = 0, seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps, self.action = self.steps + 1, int(action[0])
        return np.zeros(1, np.float32), 1.0, self.steps == 3 + self.seed % 3, False, {}

    def render(self):
        return np.full((4, 4, 3), (self.action, self.steps, self.seed), np.uint8)


class Blind(Coloured):
    def render(self):
        return None


def colour(picture, x=SIZE // 2, y=SIZE // 2):
    return Image.open(io.BytesIO(picture)).convert('RGB').getpixel((x, y))


def test_every_episode_is_filmed_for_its_own_policy():
    camera = rendering.Camera(Coloured)
    evaluator = Evaluator(camera.make_env, 2, 12, 99, is_maze=False)  # more episodes than environments
    evaluator(lambda observations, rewards, starts: np.ones((2, 10, 1)) * np.array([7, 9]).reshape(2, 1, 1))
    evaluator.close()
    for action, clips in zip((7, 9), camera.clips(2, 12), strict=True):
        for e, clip in enumerate(clips):
            steps = range(0, 3 + (99 + e) % 3 + 1, 2)  # 50 pictures per second would be too many: every other one
            assert [colour(p) for p in clip.pictures] == [(action if t else 0, t, 99 + e) for t in steps]
            assert (clip.every, clip.fps) == (2, 25)


def test_an_environment_without_pictures_is_told_of():
    evaluator = Evaluator(rendering.Camera(Blind).make_env, 1, 1, 0, is_maze=False)
    with pytest.raises(InputError, match=r'cannot be filmed: it renders no pictures \[height, width, 3\] of bytes$'):
        evaluator(lambda *_: np.zeros((1, 1, 1)))


def picture(value):
    data = io.BytesIO()
    Image.new('RGB', (SIZE, SIZE), (value, 0, 0)).save(data, format='png')
    return data.getvalue()


def panels(count=2):
    """Of 3 pictures in the first and 5 in the others, 10 per second."""
    clips = [Clip([picture(100 * i + 20 * t) for t in range(3 if i == 0 else 5)], 2, 10.0) for i in range(count)]
    return [Panel(f'member {i}', [clip], ['the end']) for i, clip in enumerate(clips)]


def test_films_show_policies_side_by_side_and_hold_what_has_ended():
    film = list(films.compose(panels()))
    assert len(film) == 5 + HOLD * 10
    assert {canvas.size for canvas in film} == {(2 * SIZE + GAP, SIZE + STRIP)}
    at = lambda canvas, i: canvas.getpixel((i * (SIZE + GAP) + 5, STRIP + 5))[0]
    assert [at(canvas, 0) for canvas in film] == [0, 20, 40, 40, 40] + [40] * 10
    assert [at(canvas, 1) for canvas in film] == [100, 120, 140, 160, 180] + [180] * 10
    words = [np.asarray(canvas.crop((0, 0, SIZE, STRIP))) for canvas in film]
    assert np.array_equal(words[2], words[-1])  # what the first came to
    assert not np.array_equal(words[1], words[2])
    assert next(films.compose(panels(5))).size == (3 * SIZE + 2 * GAP, 2 * (SIZE + STRIP))


def test_files_have_all_pictures_at_the_pace_of_the_environment():
    with Image.open(io.BytesIO(films.encode(panels(), '.GIF'))) as gif:
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info['duration'])
        assert durations == [200, 200, 200 + 1000]  # 0, 2, 4 of 10 per second, and a second on the last
        assert gif.convert('RGB').getpixel((SIZE + GAP + 5, STRIP + 5))[0] == pytest.approx(180, abs=3)
    pytest.importorskip('imageio_ffmpeg')
    film = films.encode(panels(), '.mp4')
    assert film[4:8] == b'ftyp'
    assert film.index(b'moov') < film.index(b'mdat')  # plays while it is loaded


def test_command(finished, tmp_path, capsys):
    try:
        rendering.choose_backend()
    except InputError as error:
        pytest.skip(str(error))
    film, command = tmp_path / 'film.gif', [str(finished), '--member=1,0,1']
    film.write_bytes(b'mine')
    assert evaluate.main([*command, f'--video={film}']) == 2
    assert capsys.readouterr().err == f'error: {film} exists: give --overwrite, or another --video\n'
    assert film.read_bytes() == b'mine'
    assert evaluate.main([*command, f'--video={film}', '--overwrite']) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in out] == ['member 1', 'member 0', str(film)]
    assert [path.name for path in tmp_path.iterdir()] == ['film.gif']
    assert evaluate.main([*command, '--episodes=1']) == 0  # a film changes no episode
    assert capsys.readouterr().out.splitlines() == out[:-1]
    with Image.open(film) as gif:
        assert gif.size == (2 * SIZE + GAP, SIZE + STRIP)
        longest = max(float(line.split('length ')[1].split(',')[0]) for line in out[:-1])
        assert gif.n_frames == pytest.approx(1 + longest // 4, abs=1)  # 50 steps per second, 12.5 pictures
        maze = np.asarray(gif.convert('RGB'))[STRIP:, :SIZE].astype(int)
        assert np.ptp(maze.reshape(-1, 3), axis=0).min() > 50  # no empty picture


def test_a_maze_is_seen_as_a_map():
    try:
        rendering.choose_backend()
    except InputError as error:
        pytest.skip(str(error))
    env = rendering.Filmed(gym.make('spot_jax/PointMaze-UMaze-v0', render_mode='rgb_array', disable_env_checker=True))
    env.reset(seed=0)
    image = Image.open(io.BytesIO(env.clips[0].pictures[0])).convert('RGB')
    maze, goal = env.unwrapped.maze, env.unwrapped.goal
    at = lambda x, y: image.getpixel((round(SIZE / 2 + x * SIZE / 4.1), round(SIZE / 2 - y * SIZE / 4.1)))
    red, green, _ = at(*goal)
    assert red > 2 * green  # the goal's mark
    for cell, is_wall in (((0.3, 0.3), True), ((2, 2), True), ((1, 3), False), ((3, 3), False), ((3.7, 3.7), True)):
        red, _, blue = at(*maze.cell_rowcol_to_xy(np.array(cell)))
        assert (red > blue) == is_wall  # walls are brown, the floor is blue
    env.close()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--video=film.avi'], '--video=film.avi: a film is a .mp4 or a .gif'),
        (['--video=film'], 'a film is a .mp4 or a .gif'),
        (['--video=film.mp4'], "MP4 needs imageio-ffmpeg (pip install 'spot_jax[video]'); a .gif needs nothing more"),
        (['--video=old.gif'], 'old.gif exists: give --overwrite, or another --video'),
        (['--video=old.gif/film.gif'], 'cannot write in old.gif: '),
        (['--video=film.gif', '--member=0,2'], 'no member 2: the run has members 0 to 1'),
        (['--video=film.gif', '--member=0,x'], "'x' is not a whole number"),
        (['--video=film.gif'], 'MuJoCo cannot render here (MUJOCO_GL=egl: no driver; MUJOCO_GL=osmesa: no driver)'),
    ],
)
def test_what_cannot_be_filmed_is_told_in_one_line(finished, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    monkeypatch.setattr(rendering, '_problem', lambda backend: 'no driver')
    monkeypatch.setattr(rendering, 'choose_backend', rendering.choose_backend.__wrapped__)  # without its memory
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    monkeypatch.setattr(films, 'MAX_PANELS', 2)
    (tmp_path / 'old.gif').write_bytes(b'mine')
    assert evaluate.main([str(finished), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ['old.gif']
    assert (tmp_path / 'old.gif').read_bytes() == b'mine'


def test_a_wrong_mujoco_gl_is_met_where_it_can_be_told_of():
    """Importing MuJoCo fails under it: commands import it late, where errors become one line."""
    code = "import sys, spot_jax.evaluate, spot_jax.main; print('mujoco' in sys.modules)"
    environment = os.environ | {'MUJOCO_GL': 'nonsense'}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'
    assert 'nonsense' in rendering._problem('nonsense')


def test_too_many_members_for_a_film(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(films, 'MAX_PANELS', 1)
    assert evaluate.main([str(finished), f'--video={tmp_path / "film.gif"}']) == 2
    assert 'a film shows at most 1 members: choose some by --member=0,1' in capsys.readouterr().err


def test_environments_render_only_if_asked():
    for render in (False, True):
        env = environments.make(gym.spec('Hopper-v5'), TASKS['locomotion'], render=render)
        assert env.render_mode == ('rgb_array' if render else None)
        env.close()
