"""The layer wrapper: tfmot's QuantizeWrapperV2, made safe to save."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.quantize.configs import low_bit_kernels
from keras_esq.quantize.quantizers import LowBitQuantizer


@keras.saving.register_keras_serializable(package="keras_esq")
class LowBitWrapper(tfmot_quantization.QuantizeWrapperV2):
    """tfmot's QuantizeWrapperV2, made safe to save and to freeze.

    The wrapped layer is always built first: QuantizeWrapperV2 lists other weights for a layer that was built before it
    was wrapped than for one that was not, as when a .keras file is loaded. After each call the wrapped layer gets
    its variables back: left with graph tensors in their place, it can't be written into a SavedModel. With
    trainable=False nothing is trained, while QuantizeWrapperV2 goes on with the kernel. And what Keras does around the
    call of a layer is done for the wrapped one, of which just `call` is run: activity regularizers and masks.
    """

    def __init__(self, layer: Any, quantize_config: Any, **kwargs: Any) -> None:
        regularizer = getattr(layer, "activity_regularizer", None)
        super().__init__(layer, quantize_config, **{"activity_regularizer": regularizer, **kwargs})

    def build(self, input_shape: Any) -> None:
        """Build the wrapped layer, then the quantizers' variables."""
        if not self.layer.built:
            with tf.name_scope(self.layer.name):
                self.layer.build(input_shape)
            self.layer.built = True
        super().build(input_shape)
        # tfmot lists here all trainable weights of a layer, its kernels twice, and of a frozen layer the kernels alone.
        # Keras saves what is listed, and knows no other place for variables of the wrapped layer that are ours too.
        self._trainable_weights[:] = [latent for latent, _, _ in self._weight_vars]

    @property
    def trainable_weights(self) -> list[Any]:
        """The latent weights, then the others of the wrapped layer; none with trainable=False."""
        return super().trainable_weights if self.trainable else []

    def load_own_variables(self, store: Any) -> None:
        """What Keras saved of the wrapper: in older files all that tfmot listed, ours last."""
        listed = len(self._trainable_weights) + len(self._non_trainable_weights)
        older = max(0, len(store.keys()) - listed)
        super().load_own_variables({str(i): store[str(older + i)] for i in range(len(store.keys()) - older)})

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """The wrapped layer on its quantized weights."""
        if "mask" not in inspect.signature(self.layer.call).parameters:  # Keras gives it to whoever takes **kwargs
            kwargs.pop("mask", None)
        attributes = [name for name, _ in low_bit_kernels(self.layer)]
        variables = {name: vars(self.layer)[name] for name in attributes}
        try:
            return super().call(inputs, training=training, **kwargs)
        finally:
            self.layer.__dict__.update(variables)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The wrapped layer's."""
        return self.layer.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The wrapped layer's; tfmot's own asks for `layer.input_shape`, which a wrapped layer does not have."""
        return self.layer.compute_output_shape(input_shape)


@dataclasses.dataclass(frozen=True)
class LowBitWeight:
    """A weight that is quantized, with its state.

    Attributes:
        wrapper: the layer wrapper that owns it.
        attribute: its name in the wrapped layer, such as "kernel".
        latent: the full-precision variable, which is the one that training updates.
        quantizer: the quantizer, with the axis of this layer's filters.
        partition: variable, one entry a filter: 1.0 where quantized in the present training step.
        ratio: variable, scalar: the share of filters that the next training step quantizes.
    """

    wrapper: Any
    attribute: str
    latent: Any
    quantizer: LowBitQuantizer
    partition: Any
    ratio: Any

    @property
    def quantized(self) -> tf.Tensor:
        """The weight with every filter quantized."""
        return self.quantizer.quantize(self.latent)


def wrapper_low_bit_weights(layer: Any) -> list[LowBitWeight]:
    """The low-bit weights of one wrapped layer; empty for every other layer.

    tfmot keeps the variables that it replaced by quantized tensors only in the private `_weight_vars`; a test fails
    when that moves.
    """
    if not isinstance(layer, tfmot_quantization.QuantizeWrapper) or not layer.built:
        return []
    names = [name for name, _ in low_bit_kernels(layer.layer)]
    return [
        LowBitWeight(layer, name, latent, quantizer, state["partition"], state["ratio"])
        for name, (latent, quantizer, state) in zip(names, layer._weight_vars, strict=False)
        if isinstance(quantizer, LowBitQuantizer)
    ]
