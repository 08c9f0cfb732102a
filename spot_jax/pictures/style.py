"""What pictures share: colours, legends, axes and files."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor  # Pillow comes with matplotlib

COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000']  # Okabe and Ito, no yellow
FREQUENT = 96  # of a picture's 256 colours
LINE_STYLES = ['-', '--', ':', '-.']  # the next one each time the colours are used up


def sheet() -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(layout='constrained')
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def line_style(number: int, label: str = '', order: Sequence[str] = ()) -> dict[str, Any]:
    """The colour and the kind of line of one of several curves.

    Of a label in `order`, those of its place there, if that has a colour for each.
    """
    number = order.index(label) if label in order and len(order) <= len(COLORS) else number
    kind = LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]
    return {'color': COLORS[number % len(COLORS)], 'linestyle': kind}


def legend(figure: Figure, handles: list[Any], columns: int, title: str = '') -> None:
    """A legend below the axes, where it hides nothing."""
    options: dict[str, Any] = {'frameon': False, 'fontsize': 9, 'title_fontsize': 9}
    figure.legend(handles=handles, title=title or None, ncols=columns, loc='outside lower center', **options)


def literal(text: str) -> str:
    """A text that is drawn as it is: Matplotlib takes what stands between two dollars for a formula."""
    return text.replace('$', r'\$')


def plain(axes: Axes) -> None:
    """Axes without a box, with a faint grid."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color='#e6e6e6', linewidth=0.8)
    axes.set_axisbelow(True)


def _chosen(image: Image.Image, count: int, method: Image.Quantize) -> np.ndarray:
    """At most so many colours of an image, `[N, 3]`."""
    palette = image.quantize(count, method, dither=Image.Dither.NONE).getpalette()
    assert palette is not None
    return np.reshape(palette, (-1, 3))[:count]


def _reduced(image: Image.Image) -> Image.Image:
    """An image in 256 colours: those of `COLORS` as they are, no other far from its own.

    A third is chosen by how often it is there (median cut), without which white would not be white; the rest so that
    each colour has one near it (maximum coverage), without which a few thin lines take on another line's colour.
    """
    ours = [ImageColor.getrgb(color) for color in COLORS]
    frequent = _chosen(image, FREQUENT, Image.Quantize.MEDIANCUT)
    covering = _chosen(image, 256 - len(ours) - len(frequent), Image.Quantize.MAXCOVERAGE)
    palette = np.concatenate([ours, frequent, covering])
    packed = np.asarray(image).astype(np.int32) @ (65536, 256, 1)
    packed, pixels = np.unique(packed, return_inverse=True)
    found = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    # |x − y|² less |x|²
    nearest = np.argmin(np.sum(palette**2, axis=-1) - 2 * found @ palette.T, axis=-1)
    reduced = Image.fromarray(nearest.astype(np.uint8)[pixels].reshape(image.height, image.width), 'P')
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file of 256 colours: a third of the size, and the eye sees no difference."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format='png', dpi=150)
    _reduced(Image.open(full).convert('RGB')).save(small, format='png', optimize=True)
    return small.getvalue()
