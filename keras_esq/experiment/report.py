"""What an experiment writes: tables.md, results.json and the figures."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from keras_esq._files import write_atomic
from keras_esq._text import aligned
from keras_esq.experiment.figures import make_figures
from keras_esq.experiment.findings import Finding, judge
from keras_esq.experiment.log import seconds_of
from keras_esq.experiment.results import CONFIG, Results, read_results
from keras_esq.experiment.tables import Table, make_tables

RESULTS, PAGE, ENVIRONMENT, LOG = "results.json", "tables.md", "environment.json", "log.txt"


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables, findings and figures of an experiment.

    Attributes:
        results: what they come from.
        tables, findings: see there.
        files: all that was written.
    """

    results: Results
    tables: list[Table]
    findings: list[Finding]
    files: list[Path]

    def __str__(self) -> str:
        parts = [table.to_text() for table in self.tables]
        rows = [(one.verdict, one.claim, one.numbers) for one in self.findings]
        if rows:
            header = ("verdict", "finding", "numbers")
            parts.append("The paper's findings\n\n" + aligned([header, *rows], left=3))
        return "\n\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "config": self.results.config.tables(),
            "seeds": list(self.results.seeds),
            "tables": {table.key: table.to_dict() for table in self.tables},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "models": self.results.parts,
        }


def write_report(out: str | os.PathLike[str], seeds: int | None = None) -> Report:
    """Write tables and figures of all that is finished in an experiment's folder. No model is loaded.

    Args:
        out: the folder.
        seeds: as `read_results` takes it.

    Raises:
        FileNotFoundError: if it is none.
        OSError: if it can't be written.
    """
    out = Path(out)
    results = read_results(out, seeds)
    figures = make_figures(results, out)
    report = Report(results, make_tables(results), judge(results), [])
    report.files.append(write_atomic(out / PAGE, _page(report, figures, _made(out))))
    report.files.append(write_atomic(out / RESULTS, json.dumps(report.to_dict(), indent=1) + "\n"))
    report.files.extend(figures.values())
    return report


def _made(out: Path) -> str:
    """How the experiment was made: command, machine, hours."""
    path = out / ENVIRONMENT
    if not path.is_file():
        return ""
    made = json.loads(path.read_text(encoding="utf-8"))
    if "experiment" not in made:  # of an older version
        return ""
    # Names in place of paths, which are those of one machine.
    preset, *options = made["experiment"].items()
    command = ["keras-esq", "experiment", Path(preset[1]).name]
    command += [text for key, value in options if value for text in (f"--{key}", Path(str(value)).name)]
    versions = ", ".join(f"{name} {made['packages'].get(name)}" for name in ("tensorflow", "tf-keras", "cleverhans"))
    machine = ", ".join(str(made[key]) for key in ("processor", "machine") if made.get(key))
    cores = f", {made['cores']} cores" if made.get("cores") else ""
    hours = {kind: f"{seconds / 3600:.1f} h" for kind, seconds in seconds_of(out / LOG).items()}
    lines = [
        "## How it was made",
        "",
        f"    {shlex.join(command)}",
        "",
        f"{machine}{cores}; Python {made['python']}, {versions}. Training {hours['train']}, evaluation "
        f"{hours['evaluate']}; step by step in {LOG}.",
    ]
    return "\n".join(lines)


def _page(report: Report, figures: dict[str, Path], made: str) -> str:
    config = report.results.config
    seeds = len(report.results.seeds)
    spread = "" if seeds < 2 else " Figures are means over them, ± one standard deviation."
    if fewer := report.results.fewer_seeds:
        spread += f" {fewer}"
    data = config.data.train
    intro = (
        f"`{config.network.name}` on {config.data.name}"
        f"{f', {data:,} training images' if data else ''}; seeds: {seeds}.{spread} All figures are "
        f"on {config.evaluation.on} images. Recipes and attacks: {CONFIG}; all "
        f"numbers: {RESULTS}."
    )
    parts = [f"# {config.network.name} on {config.data.name}", intro]
    if report.findings:
        lines = ["| finding | in this run | numbers | the paper |", "| --- | --- | --- | --- |"]
        lines += [f"| {one.claim} | **{one.verdict}** | {one.numbers} | {one.paper} |" for one in report.findings]
        explained = (
            f"Robustness is the share of {config.evaluation.on} images that stand every white-box attack in L-inf; "
            "two figures differ if "
            "their 95 % intervals do not overlap."
        )
        parts.append("\n".join(["## The paper's findings", "", *lines, "", explained]))
    parts += [table.to_markdown() for table in report.tables]
    parts += [f"## {title}\n\n![{title}]({path.name})" for title, path in figures.items()]
    return "\n\n".join([*parts, made] if made else parts) + "\n"
