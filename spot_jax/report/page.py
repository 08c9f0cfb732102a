"""The files of a report: one page for a browser, the same in Markdown, every table and picture by itself."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from spot_jax.pictures.style import png
from spot_jax.report.read import Run
from spot_jax.report.runs import command, fields
from spot_jax.report.scores import Section
from spot_jax.report.tables import FORMATS, Table, escaped, fenced, markdown

TITLE = 'Offline reinforcement learning: a report of runs'


def summary(runs: Sequence[Run]) -> str:
    """What the report is of, in a sentence."""
    finished = [run for run in runs if run.results is not None]
    policies = sum(len(run.results.policies) for run in finished if run.results)
    tasks, methods = len({run.config.dataset_id for run in finished}), len({run.title for run in finished})
    plural = lambda count, word: f'{count} {word}{"s" * (count != 1)}'
    text = f'{plural(policies, "policy").replace("policys", "policies")} of {plural(len(finished), "finished run")}: '
    text += f'{plural(methods, "method")}, {plural(tasks, "dataset")}'
    unfinished = len(runs) - len(finished)
    return text + (f'; {plural(unfinished, "unfinished run")}.' if unfinished else '.')


def _told(run: Run) -> dict[str, str]:
    versions = run.results.versions if run.results else {}
    return {
        'name': run.name,
        'title': run.title,
        'dataset': run.config.dataset_id,
        'command': command(run),
        'versions': ', '.join(f'{name} {version}' for name, version in sorted(versions.items())),
        'fields': fields(run),
    }


def page(
    sections: Sequence[Section], runs: Sequence[Run], run_table: Table, problems: Sequence[str], pictures: Mapping
) -> str:
    """The page for a browser, with all that it shows in it. Whatever a run's files say is shown as text."""
    text = Path(__file__).with_name('page.html').read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text).render(
        title=TITLE,
        summary=summary(runs),
        sections=sections,
        run_table=run_table,
        runs=[_told(run) for run in runs],
        problems=problems,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
    )


def in_markdown(sections: Sequence[Section], runs: Sequence[Run], run_table: Table, problems: Sequence[str]) -> str:
    """The same in Markdown, with the pictures beside it."""
    parts = [f'# {TITLE}', summary(runs)]
    if problems:
        parts += ['Not in the tables, or kept apart:', '\n'.join(f'* {escaped(line)}' for line in problems)]
    for section in [*sections, Section('Runs', '', [run_table], {})]:
        parts += [f'## {section.title}', section.text]
        for table in section.tables:
            parts += [f'### {table.title}' if table.title != section.title else '', markdown(table).strip(), table.note]
        parts += [f'![{section.title}](pictures/{name}.png)' for name in section.pictures]
    parts.append('### How to make each again')
    for run in runs:
        parts += [escaped(f'{run.name}: {run.title} on {run.config.dataset_id}'), fenced(command(run))]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def files(
    sections: Sequence[Section],
    runs: Sequence[Run],
    run_table: Table,
    policies: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
) -> dict[str, bytes]:
    """All files of a report by their names, the page last. The same runs give the same bytes."""
    pictures = {name: png(figure) for section in sections for name, figure in section.pictures.items()}
    tables = [run_table, *(table for section in sections for table in section.tables)]
    found = {f'tables/{table.name}.{kind}': write(table) for table in tables for kind, write in FORMATS.items()}
    if policies:
        found['tables/policies.csv'] = _csv(policies)
    found['report.md'] = in_markdown(sections, runs, run_table, problems)
    shown = {f'pictures/{name}.png': data for name, data in pictures.items()}
    html = page(sections, runs, run_table, problems, pictures)
    return {name: text.encode() for name, text in found.items()} | shown | {'index.html': html.encode()}
