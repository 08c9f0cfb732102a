"""`python -m spot_jax.report DIR... --out=DIR`: compares runs: tables, statistics, pictures, and a page with all of it.

DIR are folders of runs, or folders with runs somewhere below. What cannot be used is told of in one line each, here and
in the report; runs that differ in data, length or evaluation are not compared.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from spot_jax.report.collect import collect
from spot_jax.report.compare import compare
from spot_jax.report.page import files
from spot_jax.report.runs import curves, policy_table, run_table, timing
from spot_jax.report.scores import published, score_sections
from spot_jax.report.tuning import budget, sensitivity
from spot_jax.storage.outputs import require_free, write_all
from spot_jax.system.arguments import Parser, place
from spot_jax.system.errors import InputError

LIST = 'tables/files.txt'  # in a report's folder: what it wrote


def report(tops: Sequence[Path], output: Path, overwrite: bool, with_times: bool = True) -> int:
    """Writes a report of all runs in and below `tops`; returns the exit status, 1 if one of them is not there.

    Raises InputError, with nothing written, if there are none, or if a file is there already and not to be replaced.
    """
    require_free([output / 'index.html', output / LIST], overwrite, '--out')  # before the work
    collected = collect(tops)
    rows, kept_apart = compare(collected)
    pictures, damaged = curves(rows)
    problems = [*collected.problems, *kept_apart, *damaged]
    for line in problems:
        print(line, file=sys.stderr)
    if not collected.runs:
        raise InputError('nothing to report: give folders with runs in them')
    sections = [*score_sections(rows), *pictures, *sensitivity(rows), *budget(rows)]
    sections += timing(collected.runs) if with_times else []
    found = files(
        [*sections, *published(rows)], collected.runs, run_table(collected.runs), policy_table(rows), problems
    )
    require_free([output / name for name in found], overwrite, '--out')
    earlier = _listed(output)
    write_all(output, {LIST: '\n'.join([*found, '']).encode(), **found})
    for name in earlier - found.keys():  # of the report that is replaced: a picture of runs that are in no more
        (output / name).unlink(missing_ok=True)
    print(output / 'index.html')
    return 0 if all(top.is_dir() for top in tops) else 1


def _listed(output: Path) -> set[str]:
    """The tables and pictures of the report that is in a folder."""
    try:
        lines = (output / LIST).read_text().splitlines()
    except (OSError, ValueError):
        return set()
    return {line for line in lines if re.fullmatch(r'(tables|pictures)/[^/]+', line)}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 1 (a folder is not there), 2 (no report)."""
    parser = Parser(prog='python -m spot_jax.report', description=__doc__)
    parser.add_argument(
        'folders', metavar='DIR', nargs='+', type=place, help='folders of runs, or that have runs below'
    )
    parser.add_argument('--out', metavar='DIR', type=place, required=True, help='folder of the report')
    parser.add_argument('--overwrite', action='store_true', help='replace files of an earlier report')
    parser.add_argument('--no-times', action='store_true', help='leave out the seconds, which equal runs differ in')
    return parser.run(argv, lambda a: report(a.folders, a.out, a.overwrite, not a.no_times))


if __name__ == '__main__':
    sys.exit(main())
