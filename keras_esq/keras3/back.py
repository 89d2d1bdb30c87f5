"""tf-keras models in Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.keras3 import back_rules as rules
from keras_esq.keras3.detect import import_keras3, is_keras3, keras3
from keras_esq.keras3.graph import Graph, map_nest, read_tf_keras
from keras_esq.keras3.proof import prove
from keras_esq.keras3.settings import Translator
from keras_esq.keras3.work import Work

_EXAMPLE = "esq.to_keras3(model, custom_objects={})"


def to_keras3(model: Any, *, custom_objects: dict[Any, Any] | None = None) -> Any:
    """The Keras 3 model with the structure, names, settings and weights of `model`.

    A low-bit model is stripped first (`esq.strip`): its kernels hold exactly the quantized values. Layers called
    as functions (`x + y`, `tf.nn.relu(x)`) become Keras 3 operations. Weights go through arrays, so any backend of
    Keras 3 will do; its package is imported.

    Afterwards both are run on random inputs and must agree as with `esq.from_keras3`.

    Args:
        model: a built tf-keras Sequential or functional model, low-bit or float, or an ErrorSilencedModel.
        custom_objects: {tf-keras class, or its name: Keras 3 class} for layers of your own, which are made by the
            latter's from_config. Functions, such as activations, by their names.

    Returns:
        A keras.Model, not compiled.

    Raises:
        ImportError: if Keras 3 is not installed.
        TypeError: for a model that is no Sequential or functional tf-keras model, or bad `custom_objects`.
        ValueError: for what can't be translated, or if the models don't agree; names the layer.
    """
    import_keras3("to translate a model to it")
    if is_keras3(model):
        raise TypeError(
            f"Expected a tf_keras.Model. Received {type(model).__module__}.{type(model).__name__}, which is of Keras 3 "
            "already. Use it as it is."
        )
    from keras_esq.quantize.graph import check_network, walk_layers  # quantize itself imports this package
    from keras_esq.quantize.strip import strip

    network = check_network(model, "bring to Keras 3")
    if any(isinstance(layer, tfmot_quantization.QuantizeWrapper) for layer in walk_layers(network)):
        network = strip(network)

    def read(nested: Any) -> Graph:
        return read_tf_keras(check_network(nested, "bring to Keras 3"))

    translator = Translator(keras, keras3(), rules.TO_KERAS3, rules.to_keras3_activations(), custom_objects, _EXAMPLE)
    packages = ("tf_keras", "keras_esq")
    work = _ToKeras3(translator, read, rules.SPECIAL, rules.COMPOSED, packages)
    target = work.model(network)
    work.finish()
    prove(network, target, read, work.counterpart, keras3().ops.convert_to_tensor, "Keras 3")
    return target


class _ToKeras3(Work):
    def operation(self, operation: Any) -> Callable[..., Any] | None:
        """The counterpart of a TensorFlow function that tf-keras made a layer; None for other layers."""
        symbol = operation.get_config().get("function")
        if type(operation).__name__ == "Lambda" or not isinstance(symbol, str):
            return None
        function = rules.TENSORFLOW_FUNCTIONS.get(symbol)
        if function is None:
            raise ValueError(
                f"Expected functions that can be translated to Keras 3. Received {operation.name!r}, a call of "
                f"tf.{symbol}. Use a layer instead, or put it into one of your own and name that layer's Keras 3 "
                f"counterpart in custom_objects=. Known functions: {', '.join(sorted(rules.TENSORFLOW_FUNCTIONS))}."
            )
        ops = keras3().ops
        return lambda *args, **kwargs: function(ops, *map_nest(_plain, args), **kwargs)


def _plain(leaf: Any) -> Any:
    return leaf.numpy() if hasattr(leaf, "numpy") and not is_keras3(leaf) else leaf
