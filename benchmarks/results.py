"""Fill the tables of benchmarks/results.md from the results of its experiments.

    python benchmarks/results.py

A pair of markers `<!-- FOLDER -->` and `<!-- /FOLDER -->` in the page holds the table of recipes in the results.json of
that folder beside the page. Nothing is trained or attacked here: `keras-esq experiment` did.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
MARKED = re.compile(r"<!-- (?P<folder>[\w/.-]+) -->\n.*?<!-- /(?P=folder) -->", re.DOTALL)


def table(folder: str) -> str:
    """The table of recipes of the experiment in `folder`, as Markdown."""
    results = json.loads((PAGE.parent / folder / "results.json").read_text(encoding="utf-8"))
    kept = results["tables"]["recipes"]
    rows = [[cell(one) for one in row] for row in kept["rows"]]
    # A column in which nothing was measured says nothing.
    used = [i for i in range(len(kept["header"])) if any(row[i] != "-" for row in rows)]
    lines = [kept["header"], ["---"] * len(kept["header"]), *rows]
    text = "\n".join(f"| {' | '.join(line[i] for i in used)} |" for line in lines)
    return "\n\n".join([text, " ".join([f"Seeds: {len(results['seeds'])}.", *kept["notes"]])])


def cell(value: object) -> str:
    """A cell as text; shares of several seeds with their spread, leads with their interval."""
    if value is None:
        return "-"
    if isinstance(value, dict) and "means" in value:
        mean = sum(value["means"]) / len(value["means"])
        return f"{mean:+.1f} ({value['low']:+.1f} to {value['high']:+.1f})"
    if isinstance(value, dict):
        return f"{value['mean']:.1f}" + (f" ± {value['spread']:.1f}" if value["spread"] is not None else "")
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Fill the page."""
    page = PAGE.read_text(encoding="utf-8")
    filled = MARKED.sub(lambda m: f"<!-- {m['folder']} -->\n{table(m['folder'])}\n<!-- /{m['folder']} -->", page)
    PAGE.write_text(filled, encoding="utf-8")
    print(f"{PAGE}: {len(MARKED.findall(page))} tables")


if __name__ == "__main__":
    main()
