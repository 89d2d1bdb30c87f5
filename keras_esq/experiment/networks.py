"""The network of a recipe: new or trained, as the recipe changes and quantizes it."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from keras_esq import models
from keras_esq._keras import tfmot_sparsity
from keras_esq.data import Dataset, steps_per_epoch
from keras_esq.evaluation import allocate_bits, sensitivity
from keras_esq.evaluation.layer_sensitivity import kernel_layers, quantized
from keras_esq.experiment.attacks_in import build_attack
from keras_esq.experiment.config import Config, Network
from keras_esq.experiment.recipe import Recipe
from keras_esq.experiment.tables_in import check_keys, received
from keras_esq.quantize import Binary, Ternary, low_bit_weights, quantize_model, strip, summary, with_l1_batchnorm
from keras_esq.quantize.configs import low_bit_kernels
from keras_esq.training import load_model

_QUANTIZERS = {"binary": Binary, "ternary": Ternary}
# Validation images by which the layers' sensitivity is measured.
SENSITIVITY_IMAGES = 200
# Training steps between two masks of a pruning; fewer in a short training.
PRUNING_PERIOD = 10


def build_network(network: Network, data: Dataset, **options: Any) -> Any:
    """The float network with new weights; `options` go before those of the table."""
    return models.build(network.name, data.input_shape, data.classes, **{**network.options, **options})


def network_of(recipe: Recipe, config: Config, data: Dataset, folder: Path | None) -> Any:
    """The network that a recipe trains.

    Args:
        recipe: the model's.
        config: the experiment.
        data: its data.
        folder: of the seed, with the models that this one needs; None to only check the recipe, with new weights.
    """
    network = _changed(recipe, config, data, folder)
    network.trainable = True  # a source's frozen layers are its own matter
    for name in recipe.frozen:
        pattern = config.network.layers.get(name, name)
        layers = [layer for layer in network.layers if fnmatch.fnmatchcase(layer.name, pattern)]
        if not layers:
            raise ValueError(f"Expected frozen layers. {received(name, [layer.name for layer in network.layers])}")
        for layer in layers:
            layer.trainable = False
    return network


def _changed(recipe: Recipe, config: Config, data: Dataset, folder: Path | None) -> Any:
    """New or trained, pruned or quantized."""
    if recipe.source:
        network = trained_network(recipe.source, config, data, folder)
    else:
        network = build_network(config.network, data, **recipe.network)
    if recipe.batchnorm:
        if low_bit_weights(network):
            raise ValueError(f"Expected batchnorm with a float source. Received {recipe.source!r}, which is low-bit.")
        network = with_l1_batchnorm(network)
    if recipe.prune:
        return _pruned(network, recipe, data)
    if recipe.weights == "int8":
        return _rounded(network, recipe)
    if recipe.weights:
        if low_bit_weights(network):
            network = strip(network, latent=True)
        untrained = recipe.weights == "mixed" and folder is None
        network = quantize_model(
            network, "binary" if untrained else _weights(recipe, network, config, data), **recipe.quantize
        )
        if untrained and (least := summary(network).totals.low_bit_bytes) > recipe.max_bytes:
            raise ValueError(f"Expected max_bytes of at least {least}, all binary. Received: {recipe.max_bytes}.")
    return network


def trained_network(name: str, config: Config, data: Dataset, folder: Path | None) -> Any:
    """The trained network of that model; without a folder one like it with new weights."""
    if folder is not None:
        return load_model(folder / name / "model.keras", compile=False).network
    return network_of(config.recipe(name), config, data, None)


def _pruned(network: Any, recipe: Recipe, data: Dataset) -> Any:
    """In tfmot's wrappers, with the share of zeros reached halfway through the training."""
    steps = recipe.epochs * steps_per_epoch(len(data.x_train), recipe.batch_size)
    period = max(1, min(PRUNING_PERIOD, steps // 4))
    # Whole periods: there is no mask after the last step.
    half = period * max(1, steps // (2 * period))
    schedule = tfmot_sparsity.PolynomialDecay(0.0, recipe.prune, begin_step=0, end_step=half, frequency=period)
    return tfmot_sparsity.prune_low_magnitude(network, schedule)


def _rounded(network: Any, recipe: Recipe) -> Any:
    """With the kernels at 8 bits."""
    if low_bit_weights(network):
        raise ValueError(
            f"Expected weights = 'int8' with a float source. Received {recipe.source!r}, which is low-bit."
        )
    for layer in kernel_layers(network):
        for attribute, axis in low_bit_kernels(layer):
            kernel = getattr(layer, attribute)
            kernel.assign(quantized(kernel.numpy(), 8, axis))
    return network


def _weights(recipe: Recipe, network: Any, config: Config, data: Dataset) -> Any:
    """What `quantize_model` takes as its weights."""
    if recipe.weights == "mixed":
        x, y = data.x_val[:SENSITIVITY_IMAGES], data.y_val[:SENSITIVITY_IMAGES]
        attack = build_attack(recipe.attack, data.bounds)
        layers = sensitivity(network, x, y, attack=attack, bits=(1, 2), progress=False)
        return allocate_bits(network, max_bytes=recipe.max_bytes, sensitivity=layers)
    kind = _QUANTIZERS[recipe.weights]
    names = [name for name in kind().get_config() if name != "axis"]
    check_keys(recipe.weights_options, names, f"weights_options for {recipe.weights!r}")
    # Without options the name, to which quantize_model gives the settings in `quantize`.
    weights = kind(**recipe.weights_options) if recipe.weights_options else recipe.weights
    if not recipe.layer_weights:
        return weights
    aliases = config.network.layers
    exceptions = {
        aliases.get(name, name): None if one == "float" else one for name, one in recipe.layer_weights.items()
    }
    return {**exceptions, "*": weights}
