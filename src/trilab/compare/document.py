"""A comparison as a document: Markdown, and one HTML page that needs nothing else."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trilab.compare.comparison import Comparison
from trilab.compare.tables import heading, shown, shown_across
from trilab.reports.page import Rows, markdown

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2rem auto; max-width: 80rem;
       padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .25rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.quiet { color: #555; font-size: .9rem; } .wide { overflow-x: auto; }
ul.verdicts { list-style: none; padding: 0; }
ul.verdicts li { border-left: 4px solid #0072b2; background: #f2f7fb; padding: .5rem .9rem; margin: .4rem 0; }
ul.notes li { border-left: 4px solid #d55e00; background: #fdf3ec; }
table.made td { white-space: normal; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
         white-space: nowrap; }
th { border-bottom: 2px solid #888; } tr:hover td { background: #f7f7f7; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.5rem;
         margin-top: 2rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { color: #555; font-size: .9rem; } code { background: #f3f3f3; padding: .1rem .3rem; }
"""


@dataclass(frozen=True)
class Made:
    """How a comparison was made.

    Args:
        command: that makes it again.
        store: without secrets.
        runs: in words: how many, when, on what.
        when: date and time.
        version: of trilab.
    """

    command: str
    store: str
    runs: str
    when: str
    version: str

    def lines(self) -> dict[str, str]:
        return {
            "command": self.command,
            "store": self.store,
            "runs": self.runs,
            "made": f"{self.when}, trilab {self.version}",
        }


def as_markdown(comparison: Comparison, plots: Sequence[tuple[str, str]], made: Made) -> str:
    """The whole, with the plots as files beside it."""
    parts = [f"# {comparison.title}", verdicts_in_markdown(comparison)]
    for task in comparison.tasks:
        parts += [f"## {heading(comparison, task)}", markdown(shown(comparison, task))]
    if rows := shown_across(comparison):
        parts += ["## All tasks together", markdown(rows)]
    parts += [f"![{caption}]({name})\n\n{caption}" for name, caption in plots]
    parts += ["## How it was made", "\n".join(f"- {key}: {_code(key, text)}" for key, text in made.lines().items())]
    parts.append(comparison.footnote)
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def verdicts_in_markdown(comparison: Comparison) -> str:
    """The verdicts and what has to be known beside them."""
    lines = [f"- **{text}**" for text in comparison.verdicts()]
    lines += [f"- Note: {note}" for note in comparison.notes]
    lines += [f"- Left out: {comparison.left_out}." if comparison.left_out else ""]
    return "\n".join(line for line in lines if line)


def as_html(comparison: Comparison, plots: Sequence[tuple[str, str]], made: Made, folder: Path) -> str:
    """One page: the plots are in it, and nothing is fetched.

    Args:
        comparison: what is shown.
        plots: file and caption of each.
        made: how.
        folder: with the plots.
    """
    title = html.escape(comparison.title)
    parts = [f"<h1>{title}</h1>", f'<p class="quiet">{html.escape(made.runs)}</p>']
    parts.append(_list("verdicts", comparison.verdicts()))
    left_out = [f"Left out: {comparison.left_out}."] if comparison.left_out else []
    parts.append(_list("verdicts notes", [*comparison.notes, *left_out]))
    for task in comparison.tasks:
        parts += [f"<h2>{html.escape(heading(comparison, task))}</h2>", _table(shown(comparison, task))]
    if rows := shown_across(comparison):
        parts += ["<h2>All tasks together</h2>", _table(rows)]
    parts.append(f'<div class="plots">{"".join(_figure(folder / name, caption) for name, caption in plots)}</div>')
    parts += ["<h2>How it was made</h2>", _table_of(made.lines())]
    parts.append(f'<p class="quiet">{html.escape(comparison.footnote)}</p>')
    runs = [
        {"run": s.run_id, "data": s.data, "seed": s.seed, "device": s.tags.get("device.name", "")}
        for s in comparison.samples
    ]
    parts += [f"<details><summary>{len(runs)} runs</summary>{_table(runs)}</details>"]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _figure(path: Path, caption: str) -> str:
    image, text = base64.b64encode(path.read_bytes()).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{image}"><figcaption>{text}</figcaption></figure>'


def _list(kind: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _table(rows: Rows) -> str:
    """Columns without any content left out."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(row[name])}</td>' for name in columns)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _table_of(facts: Mapping[str, str]) -> str:
    body = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="made">{body}</table>'


def _code(key: str, text: str) -> str:
    return f"`{text}`" if key == "command" else text
