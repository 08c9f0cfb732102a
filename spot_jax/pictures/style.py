"""What pictures share: colours, legends, axes and files."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image  # Pillow comes with matplotlib

COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000']  # Okabe and Ito, no yellow
LINE_STYLES = ['-', '--', ':', '-.']  # the next one each time the colours are used up


def sheet() -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(layout='constrained')
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def line_style(number: int) -> dict[str, Any]:
    """The colour and the kind of line of one of several curves."""
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


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file of 256 colours: a third of the size, and the eye sees no difference."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format='png', dpi=150)
    Image.open(full).convert('RGB').quantize(256, dither=Image.Dither.NONE).save(small, format='png', optimize=True)
    return small.getvalue()
