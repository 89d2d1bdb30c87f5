"""What each target stores, how small it is, what its options do, and what they refuse."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from nets import randomize

from keras_esq._keras import keras
from keras_esq.attacks import PGD
from keras_esq.conversion import ConversionError, convert, inspect
from keras_esq.conversion.c_source import resolver_method
from keras_esq.quantize import quantize_model, strip, summary
from keras_esq.runtime import Flatbuffer, available_runtimes
from keras_esq.runtime.flatbuffer_format import items, op_name, parse, type_name
from keras_esq.training import ErrorSilencedModel

L = keras.layers
X = np.random.default_rng(0).random((24, 12, 12, 3), np.float32) * np.linspace(0.1, 1, 24).reshape(-1, 1, 1, 1)
X = X.astype(np.float32)


def network(first=None):
    """3x3, depthwise, 1x1 and dense kernels, large enough to be worth a look-up table."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 3))
    x = L.ReLU(name="a")(L.BatchNormalization()(L.Conv2D(16, 3, strides=2, name="conv")(x)))
    x = L.ReLU(name="b")(L.DepthwiseConv2D(3, padding="same", name="dw")(x))
    x = L.ReLU(name="c")(L.Conv2D(64, 1, name="point")(x))
    x = L.ReLU(name="d")(L.Conv2D(32, 3, name="wide")(x))
    return keras.Model(inputs, L.Dense(5, name="logits")(L.Flatten()(x)), name="net")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


def kinds(path):
    """{operator kernel by kernel: stored type}"""
    return [(row.op, row.type, row.bits) for row in inspect(path).rows if row.is_weight]


STORED = [
    ("phone", {}, [("CONV_2D", "INT8"), ("DEPTHWISE_CONV_2D", "INT8"), ("FULLY_CONNECTED", "INT4"),
                   ("CONV_2D", "INT8"), ("FULLY_CONNECTED", "INT2")]),
    ("phone", {"weights": "int8"}, [("CONV_2D", "INT8"), ("DEPTHWISE_CONV_2D", "INT8"), ("CONV_2D", "INT8"),
                                    ("CONV_2D", "INT8"), ("FULLY_CONNECTED", "INT8")]),
    ("phone", {"weights": "int4"}, [("CONV_2D", "INT4"), ("DEPTHWISE_CONV_2D", "INT4"), ("FULLY_CONNECTED", "INT4"),
                                    ("CONV_2D", "INT4"), ("FULLY_CONNECTED", "INT4")]),
    ("phone-small", {}, [("CONV_2D", "INT2"), ("DEPTHWISE_CONV_2D", "INT2"), ("CONV_2D", "INT2"),
                         ("CONV_2D", "INT2"), ("FULLY_CONNECTED", "INT2")]),
    ("mcu", {}, [("CONV_2D", "INT8"), ("DEPTHWISE_CONV_2D", "INT8"), ("CONV_2D", "LOOKUP"),
                 ("CONV_2D", "LOOKUP"), ("FULLY_CONNECTED", "LOOKUP")]),
    ("edgetpu", {}, [("CONV_2D", "INT8"), ("DEPTHWISE_CONV_2D", "INT8"), ("CONV_2D", "INT8"),
                     ("CONV_2D", "INT8"), ("FULLY_CONNECTED", "INT8")]),
]  # fmt: skip


@pytest.mark.parametrize("weights", ["binary", "ternary"])
@pytest.mark.parametrize(("target", "options", "stored"), STORED)
def test_what_each_target_stores(target, options, stored, weights, path):
    model = quantize_model(network(), weights)
    file = convert(model, path, target=target, calibration=X, **options)
    assert [(op, kind) for op, kind, _ in kinds(path)] == stored
    levels = 2 if weights == "binary" else 3
    assert all(row.distinct <= levels for row in inspect(path).rows if row.is_weight)
    if target == "mcu":
        assert {bits for _, kind, bits in kinds(path) if kind == "LOOKUP"} == {1 if weights == "binary" else 2}
    reference = strip(model)(X).numpy()
    exact = target == "phone-small"
    np.testing.assert_allclose(file.predict(X), reference, atol=(1e-4 if exact else 0.15) * np.abs(reference).max())
    refusals = inspect(path).refusals
    for runtime in available_runtimes():
        if refusals[runtime] is None:
            assert Flatbuffer(path, runtime).predict(X[:4]).shape == (4, 5)
        else:
            with pytest.raises(RuntimeError, match=r"can run\. Received .*(weights of|look-up)"):
                Flatbuffer(path, runtime)


def test_tflite_runtime_is_told_apart_with_what_to_do(path):
    convert(quantize_model(network(), "ternary"), path, target="phone", calibration=X)
    if "tflite-runtime" in available_runtimes():
        with pytest.raises(RuntimeError, match=r"2\.14 does not know.*weights='int8'|weights='int8'"):
            Flatbuffer(path, "tflite-runtime")
    convert(quantize_model(network(), "ternary"), path, target="phone", weights="int8", calibration=X)
    assert inspect(path).refusals["tflite-runtime"] is None


def test_auto_opens_what_can_run_the_file(path):
    convert(quantize_model(network(), "ternary"), path, target="mcu", calibration=X)
    assert Flatbuffer(path).runtime == "tflm"
    convert(quantize_model(network(), "ternary"), path, target="phone", calibration=X)
    assert Flatbuffer(path).runtime == next(r for r in ("litert", "tf") if r in available_runtimes())


@pytest.mark.parametrize("first", [None, "int8"])
def test_mixed_models_work_in_all_targets(first, path):
    """A float or int8 first layer, a binary, a ternary one: the low-bit ones keep their bits, the others are int8."""
    weights = {"conv": first, "dw": first, "point": "binary", "wide": "ternary", "logits": "binary"}
    model = quantize_model(network(), weights)
    for target, expected in [
        ("phone", ["INT8", "INT8", "INT4", "INT8", "INT2"]),
        ("phone-small", ["INT8", "INT8", "INT2", "INT2", "INT2"]),
        ("mcu", ["INT8", "INT8", "LOOKUP", "LOOKUP", "LOOKUP"]),
    ]:
        assert convert(model, path, target=target, calibration=X).agreement.top1 > 0.8
        assert [kind for _, kind, _ in kinds(path)] == expected
    assert [bits for _, kind, bits in kinds(path) if kind == "LOOKUP"] == [1, 2, 1]
    assert Flatbuffer(path).metadata["bits"] == {"conv": 8, "dw": 8, "point": 1, "wide": 2, "logits": 1}


def test_lookup_tables_are_bit_identical_to_int8(path, tmp_path):
    model = quantize_model(network(), "ternary")
    tables = convert(model, path, target="mcu", calibration=X)
    plain = convert(model, tmp_path / "int8.tflite", target="ethos-u", calibration=X)
    plain = Flatbuffer(plain.path, "tflm")
    np.testing.assert_array_equal(tables.predict_raw(tables.quantize(X)), plain.predict_raw(plain.quantize(X)))


def test_channels_of_zeros(path):
    """All-zero filters have no scale; a binary one needs a table of its own."""
    model = network()
    for name in ("wide", "logits"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., 1] = 0
        model.get_layer(name).set_weights([kernel, bias])
    for weights in ("binary", "ternary"):
        for target in ("phone", "phone-small", "mcu"):
            assert convert(quantize_model(model, weights), path, target=target, calibration=X).agreement.top1 > 0.8


@pytest.mark.parametrize("target", ["phone", "phone-small", "mcu"])
def test_filters_that_training_has_switched_off(target, path):
    """BatchNormalization's gamma goes to almost 0, and TensorFlow has a smallest range for weights."""
    image = keras.Input((12, 12, 3))
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(16, 3, use_bias=False)(image)))
    x = L.ReLU()(L.BatchNormalization(name="bn2")(L.DepthwiseConv2D(3, use_bias=False)(x)))
    model = keras.Model(image, L.Dense(5)(L.GlobalAveragePooling2D()(x)))
    randomize(model)
    gammas = np.logspace(-12, 0, 16)
    for name in ("bn", "bn2"):
        layer = model.get_layer(name)
        layer.set_weights([gammas * np.sign(layer.get_weights()[0]), *layer.get_weights()[1:]])
        gammas = gammas[::-1]
    for weights in (None, "binary", "ternary"):
        network = quantize_model(model, weights) if weights else model
        assert convert(network, path, target=target, calibration=X).agreement.top1 > 0.8


def test_shared_layers_store_their_kernel_once(path):
    x, shared = keras.Input((12, 12, 3)), L.Conv2D(32, 3, padding="same", activation="relu", name="shared")
    y = shared(shared(L.Conv2D(32, 1, name="first")(x)))
    model = quantize_model(keras.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(y))), "ternary")
    for target in ("phone-small", "mcu", "phone"):
        assert convert(model, path, target=target, calibration=X).agreement.top1 > 0.8
        stored = sum(row.num_bytes for row in inspect(path).rows if row.is_weight and row.size == 9 * 32 * 32)
        assert stored == 9 * 32 * 32 // (1 if target == "phone" else 4)


def test_a_width_that_a_layer_cant_have_is_refused_with_its_name(path):
    model = quantize_model(network(), "ternary")
    with pytest.raises(ValueError, match=r"int2.*'conv'.*CONV_2D.*phone-small"):
        convert(model, path, target="phone", weights="int2", calibration=X)
    up = keras.Sequential([keras.Input((12, 12, 3)), L.Conv2DTranspose(4, 3, name="up"), L.Flatten(), L.Dense(3)])
    with pytest.raises(ValueError, match=r"int4.*'up'.*TRANSPOSE_CONV"):
        convert(quantize_model(up, "ternary"), path, target="phone", weights="int4", calibration=X)
    assert not path.exists()
    assert convert(quantize_model(up, "ternary"), path, target="phone", calibration=X).agreement.top1 > 0.8


# ---- options


BAD_OPTIONS = [
    ({"target": "mcu", "weights": "int4"}, "'int8' or 'auto' for target 'mcu'"),
    ({"target": "phone", "weights": "int3"}, "weights to be one of"),
    ({"target": "phone", "c_array": True}, "c_array with target='mcu' only"),
    ({"target": "phone", "ram_budget": 1000}, "ram_budget with target='mcu' only"),
    ({"target": "mcu", "ram_budget": 0}, "ram_budget"),
    ({"target": "mcu", "over_budget": "warn"}, "over_budget to be one of"),
    ({"target": "mcu", "bounds": (1, 0)}, "lowest < highest"),
    ({"target": "mcu", "labels": ["a"]}, "Expected 5 labels"),
    ({"target": "phone-small", "io": "uint8"}, "Expected io"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options(options, message, path):
    with pytest.raises(ValueError, match=message):
        convert(network(), path, calibration=X, **options)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("options", [{"labels": "abcde"}, {"labels": range(5)}, {"report": 3}, {"bounds": 1}])
def test_options_of_a_wrong_type(options, path):
    with pytest.raises(TypeError, match="Expected"):
        convert(network(), path, calibration=X, **options)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (0, 255), (-2.5, 0.5)])
def test_the_input_matches_the_bounds(bounds, path):
    low, high = bounds
    data = (0.1 + 0.5 * X) * (high - low) + low
    scale, zero_point = convert(network(), path, target="mcu", calibration=data, bounds=bounds).input_quantization
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    assert abs((-128 - zero_point) * scale - low) <= 0.51 * scale
    low_u8 = convert(network(), path, target="phone", calibration=data, bounds=bounds, io="uint8").input_quantization
    assert low_u8[1] == zero_point + 128


def test_bounds_of_a_training_model(path):
    robust = ErrorSilencedModel(quantize_model(network(), "ternary"), attack=PGD(eps=8, step_size=2, bounds=(0, 255)))
    file = convert(robust, path, target="mcu", calibration=X * 255)
    assert file.input_quantization == (1, -128)
    assert file.metadata["bounds"] == [0, 255]
    with pytest.raises(ValueError, match=r"bounds \(0, 1\)"):
        convert(robust, path, target="mcu", calibration=X * 255, bounds=(0, 1))


def test_metadata(path):
    class Report:
        class Row:
            name, settings, accuracy, n = "PGD", "eps=0.1", 0.75, 100

        rows = (Row(),)

    names = [f"class {i}" for i in range(5)]
    convert(
        quantize_model(network(), "ternary"), path, target="phone-small", calibration=X, labels=names, report=Report()
    )
    noted = Flatbuffer(path).metadata
    assert noted == inspect(path).metadata
    assert noted["target"] == "phone-small"
    assert noted["labels"] == names
    assert noted["robustness"] == [{"attack": "PGD", "settings": "eps=0.1", "accuracy": 0.75, "n": 100}]
    assert set(noted["bits"].values()) == {2}
    assert noted["version"]
    json.dumps(noted)
    convert(network(), path, target="float")
    assert Flatbuffer(path).metadata["bits"]["logits"] == 32


# ---- microcontrollers


def test_c_array(path):
    file = convert(quantize_model(network(), "ternary"), path, target="mcu", calibration=X, c_array=True)
    header, source = path.with_suffix(".h").read_text(), path.with_suffix(".cc").read_text()
    stored = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", source))
    assert stored == path.read_bytes()
    assert "alignas(16) const unsigned char model_data[]" in source
    graph = parse(path.read_bytes())
    ops = {op_name(graph, operator) for operator in graph.subgraphs[0].operators}
    assert set(re.findall(r"resolver\.(\w+)\(\)", header)) == {resolver_method(op) for op in ops}
    assert "AddDecode" in header
    arena = int(re.search(r"arena_size = (\d+)", header).group(1))
    assert Flatbuffer(path, "tflm", arena_size=arena).predict(X[:1]).shape == (1, 5)
    with pytest.raises(RuntimeError, match="larger arena_size"):
        Flatbuffer(path, "tflm", arena_size=arena - 64)
    assert file.smallest_arena() == arena


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_c_source_compiles(tmp_path):
    """With a resolver that has only the methods that are called."""
    path = tmp_path / "3 net-a.tflite"
    convert(quantize_model(network(), "binary"), path, target="mcu", calibration=X, c_array=True)
    header = path.with_suffix(".h").read_text()
    folder = tmp_path / "tensorflow/lite/micro"
    folder.mkdir(parents=True)
    methods = "".join(f"int {name}() {{ return 0; }}\n" for name in set(re.findall(r"resolver\.(\w+)\(", header)))
    (folder / "micro_mutable_op_resolver.h").write_text(
        "#pragma once\nenum TfLiteStatus { kTfLiteOk };\n#define TF_LITE_ENSURE_STATUS(a) (void)(a)\n"
        f"namespace tflite {{ template <unsigned int n> struct MicroMutableOpResolver {{ {methods} }}; }}\n"
    )
    (tmp_path / "main.cc").write_text(
        f'#include "{path.stem}.h"\nint main() {{ tflite::MicroMutableOpResolver<model_3_net_a_op_count> r;\n'
        "return model_3_net_a_add_ops(r) != kTfLiteOk || model_3_net_a_size == 0 || model_3_net_a_data[4] != 'T'; }\n"
    )
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-I.", "main.cc", f"{path.stem}.cc", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "main"], check=True)


def test_resolver_methods():
    expected = {"CONV_2D": "AddConv2D", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "MAX_POOL_2D": "AddMaxPool2D",
                "FULLY_CONNECTED": "AddFullyConnected", "PADV2": "AddPadV2", "TFLM_DECODE": "AddDecode",
                "HARD_SWISH": "AddHardSwish", "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor"}  # fmt: skip
    assert {op: resolver_method(op) for op in expected} == expected


def test_ram_budget(path, tmp_path):
    model = quantize_model(network(), "ternary")
    compressed = convert(model, path, target="mcu", calibration=X)
    plain = convert(model, tmp_path / "int8.tflite", target="ethos-u", calibration=X)
    most, least = compressed.smallest_arena(), plain.smallest_arena()
    assert least < most
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(model, path, target="mcu", calibration=X, ram_budget=most).num_bytes == compressed.num_bytes
    budget = (most + least) // 2
    with pytest.warns(UserWarning, match=rf"{most:,} bytes.*{least:,} bytes.*Stored in int8 to fit: wide\.") as caught:
        file = convert(model, path, target="mcu", calibration=X, ram_budget=budget)
    assert caught[0].filename == __file__
    assert file.smallest_arena() <= budget
    assert compressed.num_bytes < file.num_bytes
    assert "LOOKUP" in [kind for _, kind, _ in kinds(path)]
    for options in ({"ram_budget": budget, "over_budget": "error"}, {"ram_budget": least // 2}):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=rf"ram_budget=.*needs {most:,} bytes"):
            convert(model, path, target="mcu", calibration=X, **options)
        assert path.read_bytes() == before


# ---- sizes


def packed_floor(model):
    plain = strip(model)
    bits = sum(-(-row.weights * row.bits // 8) for row in summary(model).rows)
    return bits + sum(8 * layer.output_shape[-1] for layer in plain.layers if isinstance(layer, (L.Conv2D, L.Dense)))


@pytest.mark.parametrize(("target", "weights", "limit"), [
    ("phone-small", "ternary", 1.12), ("mcu", "ternary", 1.30), ("mcu", "binary", 1.30)
])  # fmt: skip
def test_files_come_close_to_the_packed_bits(target, weights, limit, path):
    """From 300,000 weights on."""
    x = inputs = keras.Input((12, 12, 3))
    for filters in (32, 64, 96, 128):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(filters, 3, padding="same", strides=2)(x)))
    x = L.ReLU()(L.Dense(512)(L.Flatten()(x)))
    model = quantize_model(keras.Model(inputs, L.Dense(5)(L.Dense(128)(x))), weights)
    assert 300_000 < summary(model).totals.weights < 400_000
    size = convert(model, path, target=target, calibration=X).num_bytes
    assert size <= limit * packed_floor(model)


def test_a_kernel_of_a_width_of_its_own_needs_no_zero_points(path):
    """8 bytes a channel that no other kernel shares: a MUL by the scales takes their place."""
    x = keras.Input((12, 12, 3))
    y = L.Conv2D(200, 1, activation="relu", name="alone")(L.Conv2D(16, 3, activation="relu", name="first")(x))
    y = L.Conv2D(16, 3, name="last")(y)
    model = quantize_model(keras.Model(x, L.Dense(5, name="logits")(L.GlobalAveragePooling2D()(y))), "ternary")
    file = convert(model, path, target="phone-small", calibration=X)
    assert file.agreement.max_abs < 1e-4 * np.abs(strip(model)(X).numpy()).max()
    summary = inspect(path)
    assert summary.ops.count("MUL") == 1
    assert {(row.op, row.type, row.shape) for row in summary.rows if row.is_weight} == {
        ("CONV_2D", "INT2", (16, 3, 3, 3)), ("CONV_2D", "INT2", (200, 1, 1, 16)), ("CONV_2D", "INT2", (16, 3, 3, 200)),
        ("FULLY_CONNECTED", "INT2", (5, 16)),
    }  # fmt: skip
    assert set(file.metadata["bits"].values()) == {2}
    counts = {
        len(items(t.quantization.zeroPoint)) for t in parse(path.read_bytes()).subgraphs[0].tensors if t.quantization
    }
    assert 200 not in counts


def test_equal_vectors_are_stored_once(path):
    convert(quantize_model(network(), "ternary"), path, target="mcu", calibration=X)
    content = path.read_bytes()
    zeros = {len(items(t.quantization.zeroPoint)) for t in parse(content).subgraphs[0].tensors if t.quantization}
    for count in zeros - {1}:
        vector = np.uint32(count).tobytes() + bytes(8 * count)
        assert content.count(vector) <= 1 or count < 3


# ---- what the check finds


@pytest.mark.parametrize("target", ["phone", "phone-small", "mcu"])
def test_a_wrong_rewriting_is_an_error(target, path, monkeypatch):
    """One weight in one packed kernel is flipped between storing and checking."""
    from keras_esq.conversion import dequantizing, lookup, packing

    add = packing.add_constant

    def damaged(model, like, kind, data, **changes):
        if kind in ("INT2", "INT4") or (kind == "UINT8" and len(data) > 100):
            data = data.copy()
            data[len(data) // 2] ^= 0x04 if kind != "UINT8" else 0xFF
        return add(model, like, kind, data, **changes)

    for module in (packing, dequantizing, lookup):
        monkeypatch.setattr(module, "add_constant", damaged)
    with pytest.raises(ConversionError, match="No file was written"):
        convert(quantize_model(network(), "ternary"), path, target=target, calibration=X)
    assert list(path.parent.iterdir()) == []


def test_relu6_that_tflm_computes_wrong(path):
    """A RELU6 that is not fused: TFLM forgets to convert its scale."""
    x = keras.Input((12, 12, 3))
    y = L.ReLU(6.0, name="six")(L.Conv2DTranspose(8, 3, kernel_initializer="random_normal", name="up")(x))
    # A concatenation gives the RELU6 the range of its other input, below 0.
    wide = L.Concatenate()([y, L.Conv2DTranspose(4, 3)(x)])
    for features, ops in ((y, ("QUANTIZE",)), (wide, ("QUANTIZE", "RELU6"))):
        model = keras.Model(x, L.Dense(5)(L.GlobalAveragePooling2D()(features)))
        for target in ("mcu", "ethos-u"):
            file = convert(quantize_model(model, "ternary"), path, target=target, calibration=X)
            assert "tflm" not in available_runtimes() or file.agreement.runtimes["tflm"].top1 > 0.8
            assert tuple(op for op in inspect(path).ops if op in ("QUANTIZE", "RELU6")) == ops


@pytest.mark.skipif("tflm" not in available_runtimes(), reason="no tflite-micro here")
def test_a_layer_that_tflm_computes_wrong_is_named(path, monkeypatch):
    monkeypatch.setattr(sys.modules["keras_esq.conversion.convert"], "repair_relu6", lambda graph: None)
    x = keras.Input((12, 12, 3))
    y = L.ReLU(6.0, name="six")(L.Conv2DTranspose(8, 3, kernel_initializer="random_normal", name="up")(x))
    model = keras.Model(x, L.Dense(5, name="logits")(L.GlobalAveragePooling2D(name="pool")(y)))
    with pytest.raises(ConversionError, match=r"'tflm'.*'six'"):
        convert(quantize_model(model, "ternary"), path, target="mcu", calibration=X)
    assert not path.exists()


def adapted():
    normalization = L.Normalization(name="norm")
    normalization.adapt(X)
    stack = [keras.Input((12, 12, 3)), normalization, L.Conv2D(8, 3), L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(5)]
    return keras.Sequential(stack)


def of_one_output(units=1, activation="sigmoid"):
    stack = [L.Conv2D(16, 3, padding="same"), L.ReLU(), L.Conv2D(units, 1), L.Flatten()]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack, L.Dense(units, activation=activation, name="one")])


def grouped():
    return keras.Sequential([keras.Input((12, 12, 4)), L.Conv2D(8, 1, groups=2), L.Flatten(), L.Dense(3)])


@pytest.mark.parametrize("target", ["phone", "phone-small", "mcu"])
@pytest.mark.parametrize("make", [adapted, of_one_output, grouped])
def test_unusual_networks_agree_with_keras(make, target, path):
    network = make()
    randomize(network)
    low_bit, x = quantize_model(network, "ternary"), np.concatenate([X, X], -1)[..., : network.input_shape[-1]]
    file = convert(low_bit, path, target=target, calibration=x)
    reference = np.asarray(low_bit(x))  # of the network itself: what `convert` compares with is a stripped copy
    assert np.abs(file.predict(x) - reference).mean() < 0.05 * np.abs(reference).mean()


def test_a_single_output_is_not_packed_in_phone(path):
    low_bit = quantize_model(of_one_output(), "ternary")
    convert(low_bit, path, calibration=X)
    assert {kind for op, kind, _ in kinds(path)} == {"INT8"}
    with pytest.raises(ValueError, match=r"'one'.*single output.*weights='auto'"):
        convert(low_bit, path, calibration=X, weights="int4")


@pytest.mark.parametrize(("activation", "boundary"), [("sigmoid", 0.5), (None, 0.0)])
def test_decisions_of_a_single_unit(activation, boundary, path):
    network = of_one_output(activation=activation)
    outputs = np.asarray(network(X))
    bias = network.get_weights()[-1]
    middle = np.median(outputs if activation is None else np.log(outputs / (1 - outputs)))
    network.set_weights([*network.get_weights()[:-1], bias - middle])  # both classes are there
    file = convert(network, path, calibration=X, labels=["cat", "dog"])
    classes = np.asarray(network(X))[:, 0] > boundary
    assert 0.2 < classes.mean() < 0.8
    agreed = np.mean((file.predict(X)[:, 0] > boundary) == classes)
    assert file.agreement.runtimes[file.runtime].top1 == agreed
    with pytest.raises(ValueError, match="Expected 2 labels"):
        convert(network, path, calibration=X, labels=["cat"])


def test_decisions_of_a_single_unit_for_each_pixel(path):
    network = keras.Sequential([keras.Input((12, 12, 3)), L.Conv2D(8, 3), L.ReLU(), L.Conv2D(1, 3)])
    randomize(network)
    *others, bias = network.get_weights()
    network.set_weights([*others, bias - np.median(network(X))])  # half of the pixels on either side
    file = convert(network, path, calibration=X)
    classes = np.asarray(network(X))[..., 0] > 0
    agreed = np.mean((file.predict(X)[..., 0] > 0) == classes)
    assert file.agreement.runtimes[file.runtime].top1 == agreed < 1.0


def classifier(classes, activation, scale=1.0):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((12, 12, 3)), L.Conv2D(8, 3), L.ReLU(), L.GlobalAveragePooling2D()]
    network = keras.Sequential([*stack, L.Dense(classes, activation=activation)])
    network.set_weights([scale * w for w in network.get_weights()])
    return network


@pytest.mark.parametrize(("classes", "activation", "coarse"), [(300, "softmax", True), (300, None, False)])
def test_classes_that_int8_cannot_tell_apart(classes, activation, coarse, path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert(classifier(classes, activation), path, calibration=X)
    said = [str(one.message) for one in caught if "tell apart" in str(one.message)]
    assert len(said) == coarse
    assert all("logits" in one and "0." in one for one in said)


def test_a_softmax_of_many_classes_would_end_tflm(path):
    """At sums of exp(x - max) from 512 on its fixed-point arithmetic ends the process, on boards too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # int8 can't tell its classes apart
        with pytest.raises(ConversionError, match=r"'mcu' can run.*511 classes.*logits"):
            convert(classifier(600, "softmax"), path, target="mcu", calibration=X)
        assert list(path.parent.iterdir()) == []
        convert(classifier(600, "softmax"), path, target="ethos-u", calibration=X)
        convert(classifier(511, "softmax"), path.with_name("fewer.tflite"), target="mcu", calibration=X)
    with pytest.raises(RuntimeError, match="511 classes"):
        Flatbuffer(path, "tflm")


@pytest.mark.parametrize("target", ["mcu", "ethos-u"])
def test_an_operator_that_tflm_lacks_is_refused_with_its_layer(target, path, capfd):
    stack = [keras.Input((12, 12, 3)), L.Conv2D(8, 3), L.Activation("gelu", name="curved"), L.Flatten(), L.Dense(3)]
    with pytest.raises(ConversionError, match=r"no operator GELU\..*kind: 'curved'") as refused:
        convert(keras.Sequential(stack), path, target=target, calibration=X)
    assert "target='ethos-u'" not in str(refused.value)
    assert "GELU" not in capfd.readouterr().err


def switched_off():
    """A convolution whose ReLU gives nothing but 0, and all kinds of layers that read it."""
    image = keras.Input((12, 12, 3))
    off = L.ReLU()(L.Conv2D(4, 1, name="off", bias_initializer=keras.initializers.Constant(-50.0))(image))
    off = L.MaxPooling2D(2, 1, "same")(off)
    gate = L.Conv2D(16, 1, activation="sigmoid", bias_initializer="random_normal")(off)
    x = L.Multiply()([L.Conv2D(16, 3, padding="same")(image), gate])
    x = L.Concatenate()([x, L.DepthwiseConv2D(3, padding="same", bias_initializer="random_normal")(off)])
    x = L.Add()([L.Conv2D(4, 3, padding="same")(x), off])
    x = L.Concatenate()([x, L.Conv2DTranspose(3, 1, bias_initializer="random_normal")(off)])
    dense = L.Dense(6, bias_initializer="random_normal")(L.GlobalAveragePooling2D()(off))
    return keras.Model(image, L.Dense(5)(L.Concatenate()([L.GlobalAveragePooling2D()(x), dense])))


@pytest.mark.parametrize("target", ["phone", "mcu"])
@pytest.mark.parametrize("weights", [None, "ternary"])
def test_what_is_0_on_all_calibration_data_has_a_range(weights, target, path):
    network = switched_off()
    with pytest.warns(UserWarning, match="'re_lu.*always 0"):
        file = convert(quantize_model(network, weights) if weights else network, path, target=target, calibration=X)
    assert file.agreement.top1 > 0.9
    tensors = [t for t in parse(path.read_bytes()).subgraphs[0].tensors if type_name(t) == "INT8"]
    assert min(t.quantization.scale.min() for t in tensors) > 1e-6


def test_a_convolution_that_xnnpack_computes_wrong_runs_on_microcontrollers(path):
    """TF 2.21's XNNPACK does, which no microcontroller has; LiteRT's does not."""
    image = keras.Input((12, 12, 3))
    x = L.ReLU()(L.Conv2D(7, (1, 3), strides=(2, 1), padding="same")(image))
    assert (
        convert(keras.Model(image, L.Dense(3)(L.Flatten()(x))), path, target="mcu", calibration=X).agreement.top1 > 0.9
    )
