"""Films of episodes: policies side by side, as GIF by Pillow or as MP4 by FFmpeg."""

import contextlib
import io
import itertools
import math
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spot_jax.acting.rendering import SIZE, Clip
from spot_jax.system.errors import InputError

STRIP, GAP = 40, 8  # pixels: of words above each picture, and between two
HOLD = 1.0  # seconds that the end of an episode stays
GIF_STRIDE = 2  # a GIF shows every other picture, for half the size
MAX_PANELS = 16
ENCODERS = ('.gif', '.mp4')


class Panel(NamedTuple):
    """One policy's part of a film."""

    label: str
    clips: list[Clip]  # [E]
    outcomes: list[str]  # [E], what is said when an episode has ended


def check_encoder(path: Path) -> None:
    """Raises InputError if films of this kind cannot be written here."""
    if path.suffix.lower() not in ENCODERS:
        raise InputError(f'--video={path}: a film is a .mp4 or a .gif')
    if path.suffix.lower() == '.mp4':
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"--video={path}: MP4 needs imageio-ffmpeg (pip install 'spot_jax[video]'); a .gif needs nothing more"
            ) from error


def _canvas(panels: Sequence[Panel], episode: int, shot: int) -> Image.Image:
    """The film's picture number `shot` of an episode; those that have ended stay as they were."""
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 4))
    canvas = Image.new(
        'RGB', (columns * (SIZE + GAP) - GAP, math.ceil(len(panels) / columns) * (SIZE + STRIP)), '#202020'
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for i, panel in enumerate(panels):
        clip = panel.clips[episode]
        x, y = i % columns * (SIZE + GAP), i // columns * (SIZE + STRIP)
        last = len(clip.pictures) - 1
        with Image.open(io.BytesIO(clip.pictures[min(shot, last)])) as picture:
            canvas.paste(picture, (x, y + STRIP))
        words = f'step {shot * clip.every}' if shot < last else panel.outcomes[episode]
        for line, text in enumerate((panel.label, words)):
            draw.text((x + 6, y + 2 + 18 * line), text[:48], 'white', font)
    return canvas


def compose(panels: Sequence[Panel], stride: int = 1) -> Iterator[Image.Image]:
    """Every `stride`-th of the film's pictures, episode after episode."""
    for episode in range(len(panels[0].clips)):
        clips = [panel.clips[episode] for panel in panels]
        length = max(len(clip.pictures) for clip in clips)
        for shot in range(0, length, stride):
            yield _canvas(panels, episode, shot)
        for _ in range(round(HOLD * clips[0].fps / stride)):
            yield _canvas(panels, episode, length - 1)


def _palette(panels: Sequence[Panel]) -> Image.Image:
    """The colours of the beginning, the middle and the end, one left free: for what does not move, in Pillow's GIF."""
    last = max(len(panel.clips[0].pictures) for panel in panels) - 1
    some = np.concatenate([np.asarray(_canvas(panels, 0, shot)) for shot in (0, last // 2, last)])
    return Image.fromarray(some).quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _gif(pictures: Iterable[Image.Image], fps: float, palette: Image.Image) -> bytes:
    """All of one palette and without dithering, so that what does not move takes no room."""
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    data, duration = io.BytesIO(), round(100 / fps) * 10
    first.save(data, format='gif', save_all=True, append_images=rest, duration=duration, loop=0, optimize=False)
    return data.getvalue()


def _mp4(pictures: Iterable[Image.Image], fps: float) -> bytes:
    import imageio_ffmpeg

    pictures = iter(pictures)
    first = next(pictures)
    taken = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{first.width}x{first.height}', '-r', f'{fps:g}', '-i', '-']
    made = ['-c:v', 'libx264', '-pix_fmt', 'yuv420p', '-movflags', '+faststart']  # what browsers play
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / 'film.mp4', Path(folder) / 'log'
        command = [imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', *taken, *made, str(path)]
        with log.open('wb') as errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended: the log says why
                for picture in itertools.chain([first], pictures):
                    process.stdin.write(picture.tobytes())
                process.stdin.close()
        if process.returncode:
            reason = (log.read_text(errors='replace').strip().splitlines() or ['it says nothing'])[-1]
            raise InputError(f'FFmpeg cannot make the film: {reason[:200]}')
        return path.read_bytes()


def encode(panels: Sequence[Panel], suffix: str) -> bytes:
    """A film of the policies side by side, as a file of this kind, at the pace of the first one's environment."""
    fps = panels[0].clips[0].fps
    if suffix.lower() == '.mp4':
        return _mp4(compose(panels), fps)
    return _gif(compose(panels, GIF_STRIDE), fps / GIF_STRIDE, _palette(panels))
