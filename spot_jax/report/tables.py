"""Tables of a report, and how they are written: Markdown, CSV, LaTeX."""

import csv
import io
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

ABSENT = '–'


class Table(NamedTuple):
    """Cells of text; the first column names the rows."""

    name: str  # of its files
    title: str
    note: str  # what one has to know to read it
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Collection[tuple[int, int]] = ()  # row and column of the cells to be marked
    last_is_total: bool = False


def number(value: float | None, digits: int = 1) -> str:
    """A number as tables have it."""
    return ABSENT if value is None else f'{value:z.{digits}f}'


def with_spread(mean: float, std: float | None) -> str:
    """'mean ± standard deviation'; the mean alone of one value."""
    return number(mean) if std is None else f'{number(mean)} ± {number(std)}'


def with_interval(value: float, low: float | None, high: float | None, digits: int = 1) -> str:
    """'value [low, high]'; the value alone if it has no interval."""
    text = number(value, digits)
    return text if low is None else f'{text} [{number(low, digits)}, {number(high, digits)}]'


def best_of_row(values: Sequence[float | None]) -> list[int]:
    """Where a row's largest value is, as printed; nowhere if there are no two to choose from."""
    shown = [None if value is None else float(number(value)) for value in values]
    there = [value for value in shown if value is not None]
    return [i for i, value in enumerate(shown) if value == max(there)] if len(there) > 1 else []


def escaped(text: str) -> str:
    """A text as Markdown shows it."""
    text = re.sub(r'([\\|*`~])', r'\\\1', text.replace('&', '&amp;').replace('<', '&lt;'))
    return text.replace('](', ']\\(').replace('__', '\\_\\_')


def fenced(text: str) -> str:
    """A text as Markdown shows code, whatever is in it."""
    fence = '`' * max([3, *(len(ticks) + 1 for ticks in re.findall('`+', text))])
    return f'{fence}\n{text}\n{fence}'


def markdown(table: Table) -> str:
    """A table as GitHub's Markdown has it, the best cells bold."""
    lines = [f'| {" | ".join(map(escaped, table.columns))} |', '|---' * len(table.columns) + '|']
    for i, row in enumerate(table.rows):
        cells = [f'**{escaped(c)}**' if (i, j) in table.best else escaped(c) for j, c in enumerate(row)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def comma_separated(table: Table) -> str:
    """A table as CSV: nothing is marked."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([table.columns, *table.rows])
    return text.getvalue()


_TEX = {'±': r'$\pm$', '–': '--', 'λ': r'$\lambda$', '→': r'$\to$', '>': r'\textgreater{}', '<': r'\textless{}'}
_TEX |= {c: f'\\{c}' for c in '&%$#_{}'} | {'~': r'\textasciitilde{}', '^': r'\textasciicircum{}'}
_TEX |= {'\\': r'\textbackslash{}', '|': r'\textbar{}', '[': '{[}', ']': '{]}'}  # brackets after \\ are an option


def latex(table: Table) -> str:
    """A table as LaTeX without any package, the best cells bold."""
    escape = lambda text: ''.join(_TEX.get(c, c) for c in text)
    lines = [
        f'% {" ".join(table.title.split())}',
        f'\\begin{{tabular}}{{l{"r" * (len(table.columns) - 1)}}}',
        '\\hline',
    ]
    lines += [' & '.join(map(escape, table.columns)) + r' \\', '\\hline']
    for i, row in enumerate(table.rows):
        if table.last_is_total and i == len(table.rows) - 1:
            lines.append('\\hline')
        cells = [f'\\textbf{{{escape(c)}}}' if (i, j) in table.best else escape(c) for j, c in enumerate(row)]
        lines.append(' & '.join(cells) + r' \\')
    return '\n'.join([*lines, '\\hline', '\\end{tabular}', ''])


FORMATS = {'md': markdown, 'csv': comma_separated, 'tex': latex}


def with_totals(rows: list[list[str]], values: np.ndarray) -> list[list[str]]:
    """The rows with the sum of `values` [rows, columns] as one more; none of a column that lacks a value (NaN)."""
    totals = values.sum(0)
    return [*rows, ['total', *(ABSENT if np.isnan(total) else number(total) for total in totals)]]
