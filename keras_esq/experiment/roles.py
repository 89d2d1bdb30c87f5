"""What part a model plays, told by its recipe and not by its name."""

from __future__ import annotations

from keras_esq.experiment.recipe import Recipe


def is_float(recipe: Recipe) -> bool:
    """Full precision."""
    return not recipe.weights


def is_vanilla(recipe: Recipe) -> bool:
    """Quantized without adversarial images."""
    return bool(recipe.weights) and recipe.objective == "natural"


def is_adversarial(recipe: Recipe) -> bool:
    """Adversarial training while quantizing."""
    return bool(recipe.weights) and recipe.objective == "adversarial"


def pairs_logits(recipe: Recipe) -> bool:
    """Error-silenced by its logits, the paper's default."""
    return bool(recipe.weights) and recipe.objective == "pairing" and not recipe.pairs_activations


def pairs_activations(recipe: Recipe) -> bool:
    """Error-silenced by activations inside."""
    return bool(recipe.weights) and recipe.pairs_activations


def siblings(recipe: Recipe, others: list[Recipe]) -> list[Recipe]:
    """Those of `others` with the same source and the same kind of weights."""
    return [one for one in others if (one.source, one.weights) == (recipe.source, recipe.weights)]
