"""How one model of an experiment is made: one of [[models]]."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_esq._checks import check_count, check_nonnegative, check_positive
from keras_esq.experiment.tables_in import check_keys, received
from keras_esq.training.attack_twin import STATISTICS
from keras_esq.training.objectives import OBJECTIVES

SCHEDULES = ("cosine", "restarts", "constant")
OPTIMIZERS = ("adam", "sgd")
PAIRS = tuple(name for name, objective in OBJECTIVES.items() if objective.pairs)
# What `weights` may be; "mixed" is shared out by the layers' sensitivity.
WEIGHTS = ("", "binary", "ternary", "mixed", "int8")
LAYER_WEIGHTS = ("binary", "ternary", "int8", "float")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One of [[models]], with what its [train.*] tables say.

    Attributes:
        name: unique; a folder is called so.
        what: in words.
        source: name of the model that it starts from; empty for new weights. A low-bit one stays as it is without
            `weights`, and with them is quantized anew from its latent weights.
        network: of a model without a source: options of the network in place of those of [network], such as width.
        batchnorm: "l1" trains with L1BatchNormalization in place of BatchNormalization; empty for the network's own.
        prune: share of each kernel that tfmot's magnitude pruning sets to 0, reached halfway; of float models.
        weights: "binary", "ternary", or "mixed": what `allocate_bits` finds for `max_bytes` by the sensitivity of the
            source's layers to the training attack on the first 200 validation images; empty for float. "int8": the
            kernels of a float source rounded to 8 bits with a scale a filter, as in converted files, without training.
        weights_options: of the quantizer, such as threshold or keep_zeros; not with "mixed".
        layer_weights: {layer name, glob or alias of [network.layers]: "binary", "ternary", "int8" or "float"} where a
            layer differs from `weights`; not with "mixed".
        max_bytes: of all weights, with "mixed".
        frozen: layers that are not trained: names, globs or aliases. They keep the source's weights, quantized if the
            layer is.
        quantize: further options of `quantize_model`.
        objective: "natural", "adversarial", "pairing", "adversarial_pairing" or another name that
            `keras_esq.training.objectives.build` takes.
        objective_options: of that function; `teacher` is the name of another model.
        pairing: of objectives that pair: {"weight", "distance"} for the logits, or {"layers": names or {name: weight},
            "weight", "distance"} for activations. Empty for the objective's default.
        warm_up: {"epochs", and "eps" = true, "regularizer" = false}: what grows in the first epochs, as of
            esq.training.WarmUp: the regularizer by default.
        orthogonality: beta of the regularizer esq.training.Orthogonality on low-bit kernels; 0 for none.
        weight_perturbation: gamma of esq.training.WeightPerturbation; 0 for none.
        attack: of the training, {"attack": class in esq.attacks, and its settings}; not used by "natural".
        validation_attack: behind val_adversarial_accuracy after each epoch, a table as `attack`; empty for the
            training's. Name a stronger one where training has a single step, which a network can learn to deceive
            (catastrophic overfitting, arXiv:2001.03994).
        attack_dtype: "bfloat16" makes the training attack in bfloat16.
        attack_statistics: "batch": BatchNormalization under the training attack takes the statistics of the batch.
        ratio: name of a schedule or {epoch: ratio}; for low-bit models.
        epochs, batch_size: of the training.
        optimizer: "adam" or "sgd".
        optimizer_options: of its class, such as momentum, weight_decay, use_ema.
        average: end with the optimizer's average of the weights (use_ema = true), and BatchNormalization statistics
            that fit it, of the first 1000 training images.
        learning_rate: the highest.
        schedule: "cosine", "restarts" (a cosine for each ratio), "constant", or {epoch: learning rate} from that epoch
            on.
        restore_best: a validation figure, such as "val_adversarial_accuracy"; the weights of its best epoch are kept.
            Empty: those of the last epoch.
        start_from_epoch: the first, counted from 0, that `restore_best` may choose, as of Keras' EarlyStopping. While
            the learning rate is high, an epoch is the best of many only by chance.
        reestimate: set the BatchNormalization statistics anew at the end, by the first 1000 training images.
        seeds: trained with the first so many of the experiment's seeds only; 0 for all.
    """

    name: str
    what: str = ""
    source: str = ""
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    batchnorm: str = ""
    prune: float = 0.0
    weights: str = ""
    weights_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    layer_weights: dict[str, Any] = dataclasses.field(default_factory=dict)
    max_bytes: int = 0
    frozen: list[str] = dataclasses.field(default_factory=list)
    quantize: dict[str, Any] = dataclasses.field(default_factory=dict)
    objective: str = "natural"
    objective_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    pairing: dict[str, Any] = dataclasses.field(default_factory=dict)
    warm_up: dict[str, Any] = dataclasses.field(default_factory=dict)
    orthogonality: float = 0.0
    weight_perturbation: float = 0.0
    attack: dict[str, Any] = dataclasses.field(default_factory=dict)
    validation_attack: dict[str, Any] = dataclasses.field(default_factory=dict)
    attack_dtype: str = ""
    attack_statistics: str = "moving"
    ratio: Any = "uniform"
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    average: bool = False
    learning_rate: float = 0.001
    schedule: Any = "cosine"
    restore_best: str = ""
    start_from_epoch: int = 0
    reestimate: bool = False
    seeds: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the models that must be there first."""
        teacher = self.objective_options.get("teacher")
        return tuple(name for name in (self.source, teacher) if isinstance(name, str) and name)

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train."""
        return self.weights != "int8"

    def has_seed(self, seed: int) -> bool:
        """Whether it is trained with that seed."""
        return not self.seeds or seed < self.seeds

    @property
    def pairs_activations(self) -> bool:
        """Whether it pairs layers instead of logits."""
        return bool(self.pairing.get("layers"))


def check_recipe(recipe: Recipe, where: str) -> Recipe:
    """`recipe` if its settings are usable and fit each other.

    Raises:
        TypeError, ValueError: if not, with `where` it stands.
    """
    if any(c in recipe.name for c in "/\\\0") or recipe.name.startswith("."):
        raise ValueError(f"Expected a name that can be a folder's. Received {recipe.name!r}.")
    check_count(f"epochs of {where}", recipe.epochs)
    check_count(f"batch_size of {where}", recipe.batch_size)
    check_count(f"seeds of {where}", recipe.seeds, minimum=0)
    check_count(f"start_from_epoch of {where}", recipe.start_from_epoch, minimum=0)
    if recipe.start_from_epoch >= recipe.epochs:
        raise ValueError(
            f"Expected start_from_epoch of {where} below its {recipe.epochs} epochs, as they are counted from 0. "
            f"Received: {recipe.start_from_epoch}."
        )
    check_positive(f"learning_rate of {where}", recipe.learning_rate)
    for key in ("orthogonality", "weight_perturbation"):
        check_nonnegative(f"{key} of {where}", getattr(recipe, key))
    for key, known in (
        *(("optimizer", OPTIMIZERS), ("weights", WEIGHTS)),
        *(("batchnorm", ("", "l1")), ("attack_dtype", ("", "bfloat16"))),
        ("attack_statistics", STATISTICS),
    ):
        if getattr(recipe, key) not in known:
            raise ValueError(f"Expected {key} of {where}. {received(getattr(recipe, key), known)}")
    if isinstance(recipe.schedule, str) and recipe.schedule not in SCHEDULES:
        raise ValueError(
            f"Expected schedule of {where} as {list(SCHEDULES)} or a table {{epoch = learning rate}}. "
            f"{received(recipe.schedule, SCHEDULES)}"
        )
    if recipe.network and recipe.source:
        raise ValueError(f"Expected network in {where} without a source, whose network it takes. Received both.")
    if not 0 <= recipe.prune < 1:
        raise ValueError(f"Expected prune of {where} as a share in [0, 1). Received: {recipe.prune!r}.")
    if recipe.prune and recipe.weights:
        raise ValueError(
            f"Expected prune in a float model. Received {where} with weights {recipe.weights!r}. Prune its source, and "
            "quantize with weights = 'ternary', weights_options = {keep_zeros = true}."
        )
    if (recipe.weights == "mixed") != (recipe.max_bytes > 0) or (recipe.weights == "mixed" and not recipe.source):
        raise ValueError(
            f"Expected weights = 'mixed' with max_bytes > 0 and a source, max_bytes with nothing else, in {where}. "
            f"Received weights {recipe.weights!r}, max_bytes {recipe.max_bytes}, source {recipe.source!r}."
        )
    for key in ("weights_options", "layer_weights"):
        if getattr(recipe, key) and recipe.weights not in ("binary", "ternary"):
            raise ValueError(f"Expected {key} with 'binary' or 'ternary' in {where}. Received {recipe.weights!r}.")
    for layer, kind in recipe.layer_weights.items():
        if kind not in LAYER_WEIGHTS:
            raise ValueError(f"Expected layer_weights.{layer} of {where}. {received(kind, LAYER_WEIGHTS)}")
    if recipe.weights == "int8" and not recipe.source:
        raise ValueError(f"Expected a source for weights = 'int8' in {where}, which is not trained. Received none.")
    if recipe.average and not recipe.optimizer_options.get("use_ema"):
        raise ValueError(f"Expected average in {where} with optimizer_options = {{use_ema = true}}. Received none.")
    if recipe.warm_up.get("eps") and recipe.objective == "natural":
        raise ValueError(f"Expected warm_up with eps in {where} with an attack. Received objective 'natural'.")
    check_keys(recipe.warm_up, ("epochs", "eps", "regularizer"), f"warm_up of {where}")
    check_keys(recipe.pairing, ("weight", "distance", "layers"), f"pairing of {where}")
    if recipe.pairing and recipe.objective not in PAIRS:
        raise ValueError(
            f"Expected pairing in {where} with an objective that pairs: {' or '.join(map(repr, PAIRS))}. "
            f"Received {recipe.objective!r}."
        )
    return recipe
