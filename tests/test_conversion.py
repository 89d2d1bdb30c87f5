"""Keras models to .tflite files: what is written, what is checked, what is refused."""

import re
import stat
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.conversion import TARGETS, ConversionError, check, convert, inspect
from keras_esq.conversion.alignment import align, layer_of
from keras_esq.conversion.kernels import layer_bits
from keras_esq.conversion.lowering import lower
from keras_esq.conversion.slimming import slim
from keras_esq.conversion.writing import serialize
from keras_esq.quantize import quantize_model, strip
from keras_esq.runtime import Flatbuffer, available_runtimes
from keras_esq.runtime.flatbuffer_format import constant, items, op_name, parse

L = keras.layers
RNG = np.random.default_rng(0)
# Of different brightness, so that outputs differ from sample to sample.
X = RNG.random((40, 10, 9, 3), np.float32) * np.linspace(0.1, 1, 40, dtype=np.float32).reshape(-1, 1, 1, 1)
# The function has the name of its module, which hides it from `import`.
MODULE = sys.modules["keras_esq.conversion.convert"]


def randomize(model, seed=0):
    """Trained-looking BatchNormalization: statistics of the data, gammas of both signs."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, L.BatchNormalization):
            n = weights[0].shape
            gamma = rng.uniform(0.5, 1.5, n) * np.where(np.arange(n[0]) % 3 == 1, -1, 1)
            layer.set_weights([gamma, rng.normal(0, 0.3, n), *weights[2:]])
            layer.momentum = 0.0
        elif weights:
            layer.set_weights([w if w.ndim > 1 else rng.normal(0, 0.1, w.shape) for w in weights])
    model(X[:, : model.input_shape[1], : model.input_shape[2]], training=True)
    return model


def folding_network():
    """Every kind of kernel, each followed by a BatchNormalization that folds into it."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((10, 9, 3), name="pixels")
    x = L.ReLU(name="conv_act")(L.BatchNormalization(name="conv_bn")(L.Conv2D(8, 3, use_bias=False, name="conv")(x)))
    x = L.ReLU(name="dw_act")(L.BatchNormalization(name="dw_bn")(L.DepthwiseConv2D(3, name="dw")(x)))
    x = L.ReLU(name="sep_act")(
        L.BatchNormalization(name="sep_bn")(L.SeparableConv2D(12, 3, padding="same", name="sep")(x))
    )
    x = L.Flatten(name="flat")(x)
    x = L.ReLU(name="dense_act")(L.BatchNormalization(name="dense_bn")(L.Dense(16, name="dense")(x)))
    return randomize(keras.Model(inputs, L.Dense(5, name="logits")(x), name="folding"))


def preactivation_network():
    """A residual net with standalone BatchNormalization, strides, padding, projection and softmax."""
    x = inputs = keras.Input((10, 9, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(x)
    for index, stride in enumerate((1, 2)):
        y = L.ReLU(name=f"act{index}")(L.BatchNormalization(name=f"bn{index}")(x))
        skip = x if stride == 1 else L.Conv2D(8, 1, strides=2, name="project")(y)
        y = L.Conv2D(8, 3, strides=stride, padding="same", name=f"a{index}")(y)
        y = L.ReLU(6.0, name=f"act{index}b")(L.BatchNormalization(name=f"bn{index}b")(y))
        x = L.Add(name=f"add{index}")([skip, L.Conv2D(8, 3, padding="same", name=f"b{index}")(y)])
    x = L.GlobalAveragePooling2D(name="pool")(L.ReLU(name="last_act")(L.BatchNormalization(name="last_bn")(x)))
    return randomize(keras.Model(inputs, L.Softmax(name="softmax")(L.Dense(5, name="logits")(x)), name="wide"))


def mixed_network():
    """The other layers: transposed and padded convolutions, concatenation, both poolings, several activations."""
    x = inputs = keras.Input((10, 9, 3))
    x = L.ZeroPadding2D(((1, 0), (0, 1)))(x)
    x = L.Conv2D(6, 3, strides=2, activation="tanh", name="conv")(x)
    y = L.Conv2DTranspose(6, 3, padding="same", activation="relu", name="up")(x)
    y = L.AveragePooling2D(2, 1, padding="same")(y)
    z = L.LeakyReLU()(L.Conv2D(4, 3, padding="same", dilation_rate=2, name="dilated")(x))
    z = L.Activation("hard_sigmoid")(z)
    x = L.Concatenate()([x, y, z])
    x = L.MaxPooling2D(2)(L.Activation("swish")(L.Conv2D(6, 1, name="pointwise")(x)))
    return randomize(keras.Model(inputs, L.Dense(5, activation="softmax", name="head")(L.Flatten()(x)), name="mixed"))


NETWORKS = {"folding": folding_network, "preactivation": preactivation_network, "mixed": mixed_network}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("weights", [pytest.param(None, marks=pytest.mark.slow), "binary", "ternary"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_files_agree_with_keras(network, weights, path):
    """All targets in int8 (compact forms: test_conversion_random.py); every runtime has run the calibration data."""
    model = NETWORKS[network]()
    model = quantize_model(model, weights) if weights else model
    reference = strip(model)(X).numpy()
    for target, rules in TARGETS.items():
        file = convert(model, path, target=target, calibration=X, weights="int8")
        agreement = file.agreement
        able = {runtime for runtime, why in inspect(path).refusals.items() if why is None}
        assert set(agreement.runtimes) == set(rules.runtimes) & set(available_runtimes()) & able
        assert agreement.runtimes
        assert agreement.samples == len(X)
        exact = rules.storage == "float" or (rules.storage == "decoded" and weights)
        assert agreement.top1 >= (1 if exact else 0.85)
        scale = np.abs(reference).max()
        assert agreement.rms <= agreement.max_abs <= (1e-4 if exact else 0.15) * scale
        np.testing.assert_allclose(file.predict(X), reference, atol=agreement.max_abs * 1.001)
        assert len(agreement.table().splitlines()) == 2 + len(agreement.runtimes)
        assert file.path == path
        if rules.quantized:
            named = {layer.layer for layer in agreement.layers}
            assert named <= {layer.name for layer in model.layers} | {layer.name for layer in strip(model).layers}
            assert file.input_dtype == file.output_dtype == np.int8


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
def test_io_types(io, path):
    file = convert(folding_network(), path, target="mcu", calibration=X, io=io)
    assert file.input_dtype == file.output_dtype == np.dtype(io)


@pytest.mark.parametrize(
    ("weights", "values"),
    [("ternary", {-127, 0, 127}), ("binary", {-127, 127}), ("int8", set(range(-127, 128)))],
    ids=["ternary", "binary", "int8"],
)
def test_low_bit_layers_hold_exactly_their_values(weights, values, path):
    """Invariant 1 in the file: after folding, negative gamma included, for conv, depthwise, separable and dense."""
    model = quantize_model(folding_network(), weights)
    convert(model, path, target="ethos-u", calibration=X)
    summary = inspect(path)
    kernels = [row for row in summary.rows if row.is_weight]
    assert [row.op for row in kernels] == [
        "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED", "FULLY_CONNECTED"
    ]  # fmt: skip
    assert all(row.type == "INT8" and row.distinct <= len(values) for row in kernels)
    largest = max(row.distinct for row in kernels)
    assert largest > 3 if weights == "int8" else largest == len(values)

    file, plain = parse(path.read_bytes()), strip(model)
    graph = file.subgraphs[0]
    for name, op, stored_axis, axis in [
        ("conv", "CONV_2D", 0, 3), ("dw", "DEPTHWISE_CONV_2D", 3, 2), ("dense", "FULLY_CONNECTED", 0, 1)
    ]:  # fmt: skip
        operator = next(o for o in graph.operators if op_name(file, o) == op)
        stored = np.moveaxis(constant(file, graph.tensors[operator.inputs[1]]), stored_axis, -1)
        kernel = np.moveaxis(plain.get_layer(name).get_weights()[0], axis, -1).reshape(stored.shape)
        gamma = plain.get_layer(f"{name}_bn").gamma.numpy()
        assert (gamma < 0).any()
        assert set(np.unique(stored)) <= values
        steps = 127 * kernel / np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        np.testing.assert_array_equal(stored, np.round(steps) * np.sign(gamma))


def test_the_model_inside_of_a_training_model_is_converted(path):
    class Trainer(keras.Model):
        is_its_network = True  # as ErrorSilencedModel says of itself

        def __init__(self, network):
            super().__init__()
            self.network = network

    file = convert(Trainer(quantize_model(folding_network(), "ternary")), path, calibration=X)
    assert file.output_shape == (5,)


def test_the_users_tf_keras_may_be_keras_3(path):
    assert not tf.keras.__version__.startswith("2.")
    assert convert(folding_network(), path, calibration=tf.constant(X)).predict(X).shape == (40, 5)


def test_every_calibration_sample_sets_the_ranges(path):
    dark = X.copy() / 100
    dark[-1] = X[-1]
    model = keras.Sequential([keras.Input((10, 9, 3)), L.Flatten(), L.Dense(3)])
    narrow, full = (convert(model, path, calibration=data).output_quantization[0] for data in (X[:1], dark))
    assert full > 3 * narrow


def test_shared_layers_and_nested_models(path):
    x, shared = keras.Input((10, 9, 3)), L.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    block = keras.Sequential([keras.Input((10, 9, 4)), L.Conv2D(4, 3, name="inner"), L.Flatten()], name="block")
    y = shared(shared(L.Conv2D(4, 1, name="first")(x)))
    model = randomize(keras.Model(x, L.Dense(5)(block(y))))
    agreement = convert(quantize_model(model, "ternary"), path, calibration=X).agreement
    assert agreement.top1 >= 0.8
    assert {"shared", "inner"} <= {layer.layer for layer in agreement.layers}


def test_deep_networks_pass(path):
    """The noise of int8 adds up over layers; that is no mismatch."""
    x = inputs = keras.Input((8, 8, 3))
    for index in range(20):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same", name=f"conv{index}")(x)))
        x = L.Add()([x, y]) if index % 2 else y
    model = randomize(keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x))))
    file = convert(quantize_model(model, "binary"), path, target="mcu", calibration=X[:, :8, :8])
    assert file.agreement.top1 >= 0.8


def noisy_network(width):
    """Small values in a wide range, then a BatchNormalization that makes them large: rounding leaves little of them."""
    x = inputs = keras.Input((10, 9, 3))
    x = L.Conv2D(8, 3, activation="relu", name="first")(x)
    kernel, bias = (0.02 * np.random.default_rng(0).normal(size=w.shape) for w in keras.Model(inputs, x).get_weights())
    # One channel sets the range, and is multiplied by 0 afterwards.
    kernel[..., 0], bias[0] = 0, width
    bias[1:] += 0.1
    x = keras.Model(inputs, x).layers[-1].output
    y = L.BatchNormalization(name="large")(x)
    y = L.ReLU(name="act")(y)
    model = keras.Model(inputs, L.Dense(5, name="logits")(L.GlobalAveragePooling2D(name="pool")(y)))
    model.get_layer("first").set_weights([kernel, bias])
    gamma, beta, *rest = model.get_layer("large").get_weights()
    gamma[0] = 0
    model.get_layer("large").set_weights([gamma, beta, *rest])
    model.get_layer("large").momentum = 0.0
    model(X, training=True)
    return model


def test_rounding_noise_is_no_mismatch(path):
    """How large it is, is computed: neither a limit that such networks fail nor one that lets mistakes pass."""
    agreement = convert(noisy_network(4), path, target="ethos-u", calibration=X).agreement
    found = {layer.layer: layer for layer in agreement.layers}
    assert max(layer.relative for layer in found.values()) > 0.1
    for layer in found.values():
        assert layer.steps == pytest.approx(layer.noise, rel=0.5, abs=0.5)


def test_noise_that_leaves_nothing_is_refused(path):
    with pytest.raises(ConversionError, match=r"int8 to be fine enough.*layer '\w+' suffers.*target='phone-small'"):
        convert(noisy_network(16), path, target="ethos-u", calibration=X)
    assert not path.exists()


# Operators that have one range for all inputs, which the converter carries back to the image.
SHARED_RANGES = {
    "concatenate": lambda x, y: L.Concatenate()([x, y]),
    "maximum": lambda x, y: L.Maximum()([x, y]),
    "minimum": lambda x, y: L.Minimum()([x, y]),
    "pooled": lambda x, y: L.Concatenate()([L.MaxPooling2D()(x), L.MaxPooling2D()(y)]),
    "padded": lambda x, y: L.Concatenate()([L.ZeroPadding2D()(x), L.ZeroPadding2D()(y)]),
    "resized": lambda x, y: L.Concatenate()([L.UpSampling2D()(x), L.UpSampling2D()(y)]),
    "squashed": lambda x, y: L.Concatenate()([L.Dense(2)(L.Activation("sigmoid")(x)), L.ReLU(6.0)(x), x, y]),
    "added too": lambda x, y: L.Concatenate()([x, L.Add()([x, y])]),
}


def shared_range_network(join, tiny=1.0):
    """The image goes into a convolution of a wide range and beside it into `join`."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10, 9, 3))
    y = L.Conv2D(3, 3, padding="same", bias_initializer="random_normal", name="wide")
    model = keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(join(inputs, y(inputs)))))
    kernel, bias = y.get_weights()
    y.set_weights([20 * kernel * [1, 1, tiny], bias])
    return model


@pytest.mark.parametrize(
    ("join", "io", "bounds", "expected"),
    [
        *((join, "int8", (0, 1), (1 / 255, -128)) for join in SHARED_RANGES),
        ("concatenate", "uint8", (0, 1), (1 / 255, 0)),
        ("concatenate", "float32", (0, 1), None),
        ("maximum", "int8", (-1, 2), (3 / 255, -43)),
    ],
)
def test_the_image_keeps_its_own_scale(join, io, bounds, expected, path):
    """So that an 8-bit image loses nothing on its way into layers with kernels."""
    model = quantize_model(shared_range_network(SHARED_RANGES[join]), "ternary")
    low, high = bounds
    file = convert(model, path, target="mcu", calibration=X * (high - low) + low, io=io, bounds=bounds)
    assert file.input_quantization == (expected and pytest.approx(expected))
    file = parse(path.read_bytes())
    graph = file.subgraphs[0]
    kernel = next(o for o in graph.operators if op_name(file, o) == "CONV_2D")
    assert graph.tensors[kernel.inputs[0]].quantization.scale == pytest.approx((high - low) / 255)


@pytest.mark.parametrize("weights", [None, "ternary"])
def test_a_bias_beside_weights_of_almost_0_fits_the_images_scale(weights, path):
    """In the image's scale times that of such a filter it would leave int32."""
    model = shared_range_network(SHARED_RANGES["concatenate"], tiny=1e-8)
    file = convert(quantize_model(model, weights) if weights else model, path, target="mcu", calibration=X)
    assert file.input_quantization == pytest.approx((1 / 255, -128))
    assert file.agreement.top1 > 0.8


def test_another_scale_of_the_input_is_an_error(path, monkeypatch):
    monkeypatch.setattr(MODULE, "keep_input_scale", lambda *arguments: None)
    with pytest.raises(ConversionError, match=r"scale and zero point of the bounds \(0.*'concatenate.*No file was"):
        convert(shared_range_network(SHARED_RANGES["concatenate"]), path, calibration=X)
    assert not path.exists()


# ---- what the check finds


def corrupt(monkeypatch, change):
    """Damage each int8 file between its conversion and its check."""
    import flatbuffers

    def damaged(network, calibration=None, io="float32"):
        content = lower(network, calibration, io)
        if calibration is None:
            return content
        model = parse(content)
        graph = model.subgraphs[0]
        change(model, graph)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    monkeypatch.setattr(MODULE, "lower", damaged)


def kernel_of(model, graph, number):
    """Tensor of the kernel of the n-th operator that has one."""
    operators = [o for o in graph.operators if op_name(model, o) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    return graph.tensors[operators[number].inputs[1]]


def flip_one_weight(model, graph):
    buffer = model.buffers[kernel_of(model, graph, 1).buffer]
    buffer.data = buffer.data.copy()
    buffer.data[7] ^= 0x80


def permute_weights(model, graph):
    buffer = model.buffers[kernel_of(model, graph, 1).buffer]
    buffer.data = buffer.data[::-1].copy()


def wrong_weight_scale(model, graph):
    quantization = kernel_of(model, graph, 1).quantization
    quantization.scale = quantization.scale * 1.1


def narrow_activation(model, graph):
    """The output of the second kernel saturates."""
    operators = [o for o in graph.operators if op_name(model, o) == "DEPTHWISE_CONV_2D"]
    quantization = graph.tensors[operators[0].outputs[0]].quantization
    quantization.scale = quantization.scale / 8


def narrower_activation(model, graph):
    """Two thirds of the range are lost, where few values lie."""
    operators = [o for o in graph.operators if op_name(model, o) == "DEPTHWISE_CONV_2D"]
    quantization = graph.tensors[operators[0].outputs[0]].quantization
    quantization.scale = quantization.scale / 3


def other_geometry(model, graph):
    """Same shapes, other pixels: an attribute that no constant shows."""
    operator = [o for o in graph.operators if op_name(model, o) == "DEPTHWISE_CONV_2D"][1]
    operator.builtinOptions.dilationHFactor = 2


def another_kernel(model, graph):
    """A kernel of a shape that the float twin has not."""
    operator = next(o for o in graph.operators if op_name(model, o) == "DEPTHWISE_CONV_2D")
    tensor = graph.tensors[operator.outputs[0]]
    tensor.shape = tensor.shape[[0, 2, 1, 3]]


# Weights belong to the layer of the kernel, outputs to the last layer that was fused into it.
DAMAGE = [
    (flip_one_weight, "'dw'"),
    (permute_weights, "'dw'"),
    (wrong_weight_scale, "'dw'"),
    (another_kernel, "'dw' has none"),
    (narrow_activation, "'dw_act'"),
    (narrower_activation, "'dw_act'"),
    (other_geometry, "'sep'"),
]


@pytest.mark.parametrize(("change", "layer"), DAMAGE)
def test_a_wrong_file_is_an_error_that_names_the_layer(change, layer, path, monkeypatch):
    corrupt(monkeypatch, change)
    path.write_bytes(b"what was there")
    with pytest.raises(ConversionError, match=layer):
        convert(folding_network(), path, calibration=X)
    assert path.read_bytes() == b"what was there"
    assert list(path.parent.iterdir()) == [path]


def test_an_undamaged_file_survives_the_same_packing(path, monkeypatch):
    corrupt(monkeypatch, lambda model, graph: None)
    assert convert(folding_network(), path, calibration=X).agreement.top1 > 0.8


def test_a_wrong_float_file_names_the_layer(path, monkeypatch):
    other = folding_network()
    kernel, *rest = other.get_layer("sep").get_weights()
    other.get_layer("sep").set_weights([kernel * 1.5, *rest])
    monkeypatch.setattr(MODULE, "lower", lambda network, calibration=None, io="float32": lower(other, calibration, io))
    for target in TARGETS:
        with pytest.raises(ConversionError, match=r"'sep(_act|_bn)?'"):
            convert(folding_network(), path, target=target, calibration=X)
        assert not path.exists()


def test_a_wrong_runtime_is_an_error(path, monkeypatch):
    predict = Flatbuffer.predict

    def wrong(self, x, batch_size=64):
        outputs = predict(self, x, batch_size)
        return outputs[::-1] if self.runtime == "tflm" else outputs

    monkeypatch.setattr(Flatbuffer, "predict", wrong)
    with pytest.raises(ConversionError, match=r"'tflm'.*'logits'"):
        convert(folding_network(), path, target="mcu", calibration=X)
    assert not path.exists()


def test_saturation_that_the_quantizer_means_is_no_mismatch():
    """Tensors that share the range of a MINIMUM or pooling are compared within this range."""
    x = inputs = keras.Input((10, 9, 3))
    x = L.Conv2D(8, 3, name="wide")(x)
    x = L.MaxPooling2D(2)(x)
    x = L.ReLU(max_value=0.05, name="narrow")(x)
    model = keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))
    content, twin = lower(model, X, "int8"), lower(model)
    agreement = check.check_int8(content, twin, model, X, model(X).numpy(), ["tf"])
    assert agreement.top1 > 0.5


LAYER_NAMES = [
    ("model/relu/Relu;model/bn/FusedBatchNormV3;model/conv/Conv2D", "conv bn relu", "relu"),
    ("model/conv_1/Conv2D", "conv bn relu", "conv"),
    ("model/dense_1/MatMul;model/dense_1/BiasAdd", "conv relu dense_1", "dense_1"),
    ("StatefulPartitionedCall:0", "conv bn relu", None),
    # A number of a layer's own.
    ("model/act_1/Relu;model/conv_1/Conv2D", "conv_1 act_1 conv act", "act_1"),
    ("model/act/Relu;model/conv/Conv2D", "conv act conv_1 act_1", "act"),
    # Other scopes that are named like a layer: the model, a layer inside of a layer.
    ("conv/relu/Relu", "relu conv", "relu"),
    ("model/block/conv/Conv2D", "block conv", "block"),
    # Slashes, and the names of rewritten files, which have no model.
    ("model/conv1/bn/FusedBatchNormV3;model/conv1/conv/Conv2D", "conv1/conv conv1/bn", "conv1/bn"),
    ("relu/CONV_2D", "conv relu", "relu"),
]


@pytest.mark.parametrize(("tensor", "layers", "expected"), LAYER_NAMES)
def test_layer_names_in_tensor_names(tensor, layers, expected):
    assert layer_of(tensor, layers.split()) == expected


def test_numbered_layers_are_told_apart(path):
    """`act` after `act_1`, as with Keras' own names where layers run in another order than they were made."""
    x = inputs = keras.Input((10, 9, 3))
    for number in ("_1", "_2", ""):
        x = L.ReLU(name=f"act{number}")(L.Conv2D(16, 3, name=f"conv{number}")(x))
    model = keras.Model(inputs, L.Dense(3, name="d")(L.Flatten(name="flat")(x)))
    bits = {"conv_1": "int8", "conv_2": "binary", "conv": "ternary", "d": "ternary"}
    file = convert(quantize_model(model, bits), path, target="mcu", calibration=X)
    assert [layer.layer for layer in file.agreement.layers] == ["act_1", "act_2", "act", "flat", "d"]
    assert file.metadata["bits"] == {"conv_1": 8, "conv_2": 1, "conv": 2, "d": 2}


@pytest.mark.parametrize("network", list(NETWORKS))
def test_kernels_and_outputs_have_names_of_their_layers(network):
    """A kernel that of the layer that owns it, whatever was fused; and none is lost where names are shortened."""
    model = strip(quantize_model(NETWORKS[network](), "ternary"))
    owners = {layer.name for layer in model.layers if any(len(w.shape) > 1 for w in layer.weights)}
    names = [layer.name for layer in model.layers], model.output_names[0]
    content, twin = lower(model, X, "int8"), lower(model)
    expected = [pair.layer for pair in align(content, twin, *names)]
    assert {"preactivation": {"b0", "add0", "b1", "project"}, "mixed": {"average_pooling2d"}}.get(network, {"sep"}) <= {
        re.sub(r"_\d+$", "", name) for name in expected
    }
    for file in (content, twin):
        graph = parse(file)
        assert set(layer_bits(graph, *names)) == owners
        slim(graph, *names)
        assert set(layer_bits(graph, *names)) == owners
    graph = parse(content)
    slim(graph, *names)
    assert [pair.layer for pair in align(serialize(graph), twin, *names)] == expected


# ---- bad input


@pytest.mark.parametrize("target", ["edge-tpu", "phones", "", None])
def test_unknown_targets_list_the_known(target, path):
    with pytest.raises(ValueError, match=r"one of \['float', 'phone', 'phone-small', 'mcu', 'edgetpu', 'ethos-u'\]"):
        convert(folding_network(), path, target=target, calibration=X)


@pytest.mark.parametrize(
    ("io", "target"), [("int4", "phone"), ("uint8", "float"), ("float", "mcu"), ("float32", "edgetpu")]
)
def test_unknown_io(io, target, path):
    with pytest.raises(ValueError, match="Expected io to be one of"):
        convert(folding_network(), path, target=target, calibration=X, io=io)


BAD_CALIBRATION = [
    (None, ValueError, "calibration=x_train"),
    (X[:0], ValueError, "no samples"),
    (X[0], ValueError, "one sample"),
    (X[..., 0], ValueError, "Received the shape"),
    (X[:, 1:], ValueError, "Received the shape"),
    (np.where(np.arange(40).reshape(-1, 1, 1, 1) == 5, np.nan, X), ValueError, "sample 5"),
    (np.where(np.arange(40).reshape(-1, 1, 1, 1) == 5, np.inf, X), ValueError, "sample 5"),
    (X.astype(str), ValueError, "real numbers"),
    ([[1.0], [1.0, 2.0]], ValueError, "unequal"),
    (tf.data.Dataset.from_tensor_slices(X), TypeError, "np.stack"),
    (iter(X), TypeError, "np.stack"),
    (X * 2, ValueError, r"inside the bounds \(0, 1\).*bounds="),
]


@pytest.mark.parametrize(("calibration", "error", "message"), BAD_CALIBRATION)
@pytest.mark.parametrize("target", ["phone", "float"])
def test_bad_calibration(calibration, error, message, target, path):
    if calibration is None and target == "float":
        assert convert(folding_network(), path, target="float").agreement.samples == 16
        return
    with pytest.raises(error, match=message):
        convert(folding_network(), path, target=target, calibration=calibration)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("target", ["phone", "float"])
def test_one_output_in_a_dict(target, path):
    model = folding_network()
    wrapped = keras.Model({"image": model.input}, {"scores": model.output})
    assert convert(quantize_model(wrapped, "ternary"), path, target=target, calibration=X).agreement.top1 > 0.8


def test_integer_calibration_is_taken_as_numbers(path):
    file = convert(folding_network(), path, calibration=(X * 255).astype(np.uint8), bounds=(0, 255))
    assert file.agreement.top1 > 0.8
    assert file.input_quantization == (1, -128)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def nan_model():
    model = folding_network()
    kernel = model.get_layer("dw").get_weights()
    kernel[0][0, 0, 0] = np.nan
    model.get_layer("dw").set_weights(kernel)
    return model


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], L.Add()([a, b]))


def infinite_outputs():
    x = keras.Input((10, 9, 3))
    return keras.Model(x, L.Dense(3)(L.Lambda(lambda t: t / 0.0, name="bad")(L.Flatten()(x))))


BAD_MODELS = [
    (lambda: "model.keras", TypeError, "Expected a tf_keras.Model"),
    (lambda: Subclassed(), TypeError, "subclassed"),
    (lambda: keras.Sequential([L.Dense(3)]), ValueError, "not known yet"),
    (two_inputs, ValueError, "1 input and 1 output. Received .* with 2 and 1"),
    (lambda: keras.Sequential([keras.Input((None, None, 3)), L.GlobalMaxPooling2D()]), ValueError, "fixed input size"),
    (lambda: keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(3, 3)]), ValueError, "float32 input"),
    (nan_model, ValueError, r"NaN or infinite in 'dw/.*layer 'dw'"),
    (infinite_outputs, ValueError, "finite outputs"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_MODELS)
def test_bad_models(make, error, message, path):
    with pytest.raises(error, match=message):
        convert(make(), path, calibration=X)
    assert list(path.parent.iterdir()) == []


def test_an_operator_that_tflite_lacks_is_refused(path):
    x = keras.Input((10, 9, 3))
    model = keras.Model(x, L.Dense(3)(L.Flatten()(tf.math.erfc(x))))
    with pytest.raises(ValueError, match=r"float \.tflite.*[Ee]rfc"):
        convert(model, path, calibration=X)
    assert list(path.parent.iterdir()) == []


def test_bad_paths(tmp_path):
    model = folding_network()
    with pytest.raises(IsADirectoryError, match="Add a file name"):
        convert(model, tmp_path, calibration=X)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert(model, tmp_path / "no" / "model.tflite", calibration=X)
    assert list(tmp_path.iterdir()) == []


def test_read_only_folder(tmp_path, monkeypatch):
    """Refused before anything is converted. (A superuser may write everywhere, so the refusal is played.)"""
    monkeypatch.setattr(MODULE, "lower", lambda *arguments: pytest.fail("converted for nothing"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("keras_esq._files.tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError, match="Choose another path"):
        convert(folding_network(), tmp_path / "model.tflite", calibration=X)


def test_the_file_follows_the_umask(path):
    convert(folding_network(), path, target="float")
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_shapes_are_static_for_devices(path):
    """No shape arithmetic in the graph: microcontrollers and NPUs can't run it."""
    convert(mixed_network(), path, target="mcu", calibration=X)
    assert not {"SHAPE", "PACK", "STRIDED_SLICE"} & set(inspect(path).ops)
    file = parse(path.read_bytes())
    assert all(-1 not in items(t.shapeSignature) for t in file.subgraphs[0].tensors)
