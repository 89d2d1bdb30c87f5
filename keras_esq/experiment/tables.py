"""The paper's tables from the results of an experiment.

Our copy of the paper does not say what Table 2 holds, nor how Tables 3b to 5 look. We chose: Table 2, the models with
bits, bytes and clean accuracy; Table 3b, a row for each model that images are made against, a column for each that they
are tried on; Tables 4 and 5, the models that differ in what is paired alone, under each white-box attack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_esq._text import aligned
from keras_esq.experiment import paper, roles
from keras_esq.experiment.evaluate import WORST
from keras_esq.experiment.recipe import Recipe
from keras_esq.experiment.results import Lead, Results, Share


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for people and for programs.

    Attributes:
        key: "table1" and so on.
        title: what it shows.
        header: names of the columns.
        rows: cells: text, numbers, `Share`s or None.
        notes: lines below it.
    """

    key: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        """All rows as text, the header first."""
        return [list(self.header), *([_text(cell) for cell in row] for row in self.rows)]

    def to_text(self) -> str:
        """For a terminal."""
        left = sum(all(isinstance(row[i], str) for row in self.rows) for i in range(min(2, len(self.header))))
        return "\n".join([self.title, "", aligned(self.cells(), left=max(left, 1)), *self.notes])

    def to_markdown(self) -> str:
        """For a page."""
        header, *rows = self.cells()
        texts = [all(isinstance(row[i], str) for row in self.rows) for i in range(len(header))]
        rule = ["---" if text else "---:" for text in texts]
        lines = [f"| {' | '.join(one)} |" for one in (header, rule, *rows)]
        return "\n".join([f"## {self.title}", "", *lines, *(f"\n{note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """As plain data: shares as mean and spread in % and in points."""
        rows = [[_plain(cell) for cell in row] for row in self.rows]
        return {"title": self.title, "header": list(self.header), "rows": rows, "notes": list(self.notes)}


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _plain(cell: Any) -> Any:
    if isinstance(cell, Share):
        low, high = cell.interval
        return {"mean": cell.mean, "spread": cell.spread, "low": low, "high": high}
    if isinstance(cell, Lead):
        low, high = cell.interval
        return {"means": cell.means, "low": low, "high": high}
    return cell


def make_tables(results: Results) -> list[Table]:
    """The tables that the results suffice for; of an experiment on validation images, those of the recipes alone."""
    if results.config.evaluation.on != "test":
        tables = [make(results) for make in (_recipes, _white_box, _ensemble)]
        return [table for table in tables if table is not None]
    makers = (_strengths, _overview, _white_box, _transfer, _adversarial, _activations, _ensemble, _recipes)
    return [table for table in (make(results) for make in makers) if table is not None]


def _strengths(results: Results) -> Table | None:
    models = results.having("strengths")
    if not models:
        return None
    eps = next(iter(results.of(models[0].name, "strengths").values()))["eps"]
    labels = [f"{one:.4g}" for one in eps]
    rows: list[tuple[Any, ...]] = []
    for recipe in models:
        rows.append((recipe.name, "this run", *(results.share(recipe.name, one, "strengths") for one in labels)))
        if recipe.name in paper.TABLE_1 and len(eps) == len(paper.TABLE_1[recipe.name]):
            rows.append((recipe.name, paper.SETTING, *paper.TABLE_1[recipe.name]))
    attack = results.config.evaluation.parts["strengths"].attack["attack"]
    note = "The paper's strengths are not named in our copy of it. Its last one is that of Table 3a, 16/255."
    return Table(
        "table1",
        f"Table 1. Accuracy (%) under {attack} of growing eps",
        ("model", "", *(f"eps {label}" for label in labels)),
        tuple(rows),
        (note,),
    )


def _overview(results: Results) -> Table | None:
    rows = []
    for recipe in results.having("size"):
        size = results.size(recipe.name)
        ratio = 4 * size["weights"] / size["kernel_bytes"]
        clean = results.clean(recipe.name)
        rows.append((recipe.name, recipe.what, f"{size['bits']:.0f}", size["kernel_bytes"], f"{ratio:.1f}x", clean))
    header = ("model", "", "bits/weight", "weight bytes", "smaller", "clean accuracy (%)")
    note = "Bytes of packed kernels and their scales, without biases and BatchNormalization."
    return Table("table2", "Table 2. The models", header, tuple(rows), (note,)) if rows else None


def columns_of(results: Results) -> list[str]:
    """The columns of white-box attacks: clean first, then each attack, then the worst by norm."""
    first = results.having("attacks")[0].name
    measured = next(iter(results.of(first, "attacks").values()))["correct"]
    attacks = list(results.config.evaluation.attacks)
    return [one for one in ("clean", *attacks, *WORST.values()) if one in measured]


def _white_box(results: Results) -> Table | None:
    if not results.having("attacks"):
        return None
    columns = columns_of(results)
    rows: list[tuple[Any, ...]] = []
    for recipe in results.having("attacks"):
        rows.append((recipe.name, "this run", *(results.share(recipe.name, one) for one in columns)))
        # Beside images by which recipes are chosen the paper's figures mean nothing.
        if recipe.name in paper.TABLE_3A and results.config.evaluation.on == "test":
            rows.append((recipe.name, paper.SETTING, *(paper.TABLE_3A[recipe.name].get(one) for one in columns)))
    note = "Worst: images that stand every attack of that norm. " + _settings(results)
    title = "Table 3a. Accuracy (%) under white-box attacks"
    return Table("table3a", title, ("model", "", *columns), tuple(rows), (note,))


def _settings(results: Results) -> str:
    texts = []
    for name, settings in results.config.evaluation.attacks.items():
        shown = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "attack")
        texts.append(f"{name}: {shown}")
    return "; ".join(texts) + "."


def _transfer(results: Results) -> Table | None:
    models = results.having("transfer")
    if not models:
        return None
    targets = [recipe.name for recipe in models]
    rows: list[tuple[Any, ...]] = [("no attack", *(transferred(results, targets[0], one, "clean") for one in targets))]
    rows += [(source, *(transferred(results, source, one, "accuracy") for one in targets)) for source in targets]
    twins = all(row[1 + i] is not None for i, row in enumerate(rows[1:]))
    notes = ["A row for each model that images are made against, a column for each that they are tried on."]
    notes.append(
        "A model against itself: the images are made against its twin of another seed."
        if twins
        else "A model against itself is left out: its twin is the same model of another seed, and there was one seed."
    )
    title = "Table 3b. Accuracy (%) under transfer attacks"
    return Table("table3b", title, ("made against \\ tried on", *targets), tuple(rows), tuple(notes))


def transferred(results: Results, source: str, target: str, kind: str) -> Share | None:
    """What `target` gets right of the images made against `source` ("accuracy"), or of the clean ones ("clean")."""
    found = [(one[kind].get(target), one["n"]) for one in results.of(source, "transfer").values()]
    if not found or any(share is None for share, _ in found):
        return None
    return Share(tuple((round(share * n), n) for share, n in found))


def _compared(key: str, title: str, results: Results, groups: Sequence[list[Recipe]], notes: tuple[str, ...]) -> Table:
    columns = columns_of(results)
    rows = [
        (recipe.name, recipe.what, *(results.share(recipe.name, one) for one in columns))
        for group in groups
        for recipe in group
    ]
    return Table(key, title, ("model", "", *columns), tuple(rows), notes)


def _groups(results: Results, of: Any, against: Any) -> list[list[Recipe]]:
    """For each kind of low-bit model: the float source, those `of` a role, then those of the role `against`."""
    models = results.having("attacks")
    groups, seen = [], set()
    for recipe in models:
        kind = recipe.source, recipe.weights
        alike = roles.siblings(recipe, models)
        ours, theirs = [one for one in alike if of(one)], [one for one in alike if against(one)]
        if of(recipe) and ours and theirs and kind not in seen:
            seen.add(kind)
            groups.append([*(one for one in models if one.name == recipe.source), *ours, *theirs])
    return groups


def _adversarial(results: Results) -> Table | None:
    groups = _groups(results, roles.is_adversarial, roles.pairs_logits)
    title = "Table 4. Adversarial training while quantizing against pairing: accuracy (%)"
    return _compared("table4", title, results, groups, ()) if groups else None


def _activations(results: Results) -> Table | None:
    groups = _groups(results, roles.pairs_activations, roles.pairs_logits)
    title = "Table 5. Pairing of activations against pairing of logits: accuracy (%)"
    layers = results.config.network.layers
    named = ", ".join(f"{alias} is {layer}" for alias, layer in layers.items())
    notes = (f"Layers: {named}.",) if named else ()
    return _compared("table5", title, results, groups, notes) if groups else None


def _ensemble(results: Results) -> Table | None:
    """Not in the paper: whether its white-box attacks were strong enough."""
    models = results.having("ensemble")
    if not models:
        return None
    attack = results.config.evaluation.parts["ensemble"].attack["attack"]
    rows = [
        (recipe.name, *(results.share(recipe.name, one, "ensemble") for one in ("clean", "white box", attack)))
        for recipe in models
    ]
    n = next(iter(results.of(models[0].name, "ensemble").values()))["n"]
    header = ("model", "clean", "worst white-box attack", attack)
    note = f"Not in the paper. All on the first {n} {results.config.evaluation.on} images."
    title = f"{attack}: are the white-box attacks strong enough? Accuracy (%)"
    return Table("ensemble", title, header, tuple(rows), (note,))


def _recipes(results: Results) -> Table | None:
    """Not in the paper: what each recipe brings, and what it costs."""
    names = [recipe.name for recipe in results.having("attacks")]
    if not names:
        return None
    sizes = [results.size(name) for name in names]
    columns: dict[str, list[Any]] = {
        "model": list(names),
        "": [results.config.recipe(name).what for name in names],
        "bits/weight": [size["bits"] for size in sizes],
        "weight bytes": [size["kernel_bytes"] for size in sizes],
        "zeros (%)": [100 * size["zeros"] if "zeros" in size else None for size in sizes],
        "clean": [results.clean(name) for name in names],
        "worst white-box attack": [results.worst(name) for name in names],
    }
    notes = [results.fewer_seeds] if results.fewer_seeds else []
    strongest = (WORST["linf"] if results.share(names[0], WORST["linf"]) else WORST["l2"]), "attacks"
    if ensemble := results.having("ensemble"):
        attack = results.config.evaluation.parts["ensemble"].attack["attack"]
        n = next(iter(results.of(ensemble[0].name, "ensemble").values()))["n"]
        strong = [results.share(name, attack, "ensemble") for name in names]
        columns[attack] = list(strong)
        columns["95 % interval"] = [share and f"{share.interval[0]:.1f} to {share.interval[1]:.1f}" for share in strong]
        notes.append(f"{attack}: on the first {n} {results.config.evaluation.on} images.")
        strongest = attack, "ensemble"
    leads = [_over_source(results, name, *strongest) for name in names]
    if any(leads):
        columns["over its source"] = list(leads)
        under = strongest[0] if ensemble else "the worst white-box attack"
        notes.append(
            f"over its source: points under {under} above the model that it was made from, image by image, with "
            "the paired 95 % interval."
        )
    if perturbed := _perturbed(results, names):
        notes.append(perturbed)
    if results.having("corruptions"):
        columns["corruptions"] = [results.share(name, "corruptions", "corruptions") for name in names]
        notes.append("corruptions: the mean over all of them and their severities.")
    if results.having("audit"):
        columns["masking audit"] = [_audited(results, name) for name in names]
    if results.seconds:
        columns["training (min)"] = [results.seconds[name] / 60 if name in results.seconds else None for name in names]
    title = "What each recipe brings and costs: accuracy (%)"
    return Table("recipes", title, tuple(columns), tuple(zip(*columns.values(), strict=True)), tuple(notes))


def _perturbed(results: Results, names: list[str]) -> str:
    """A sentence on adversarial weight perturbation, which a preset may set for some data sets alone."""
    gammas: dict[float, list[str]] = {}
    for name in names:
        if gamma := results.config.recipe(name).weight_perturbation:
            gammas.setdefault(gamma, []).append(name)
    models = "; ".join(f"by {gamma:g} of their norms in {', '.join(some)}" for gamma, some in gammas.items())
    return f"Weights perturbed in training {models}." if models else ""


def _over_source(results: Results, name: str, attack: str, part: str) -> Lead | None:
    source = results.config.recipe(name).source
    return results.lead(name, source, attack, part) if source else None


def _audited(results: Results, name: str) -> str | None:
    found = results.of(name, "audit")
    if not found:
        return None
    failed = sorted({check for one in found.values() for check in one["failed"]})
    return ", ".join(failed) or "passed"
