"""Running .tflite files: all runtimes, batches, bad files and bad input."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import convert
from keras_esq.conversion.lowering import lower
from keras_esq.quantize import quantize_model
from keras_esq.runtime import RUNTIMES, Flatbuffer, available_runtimes, backends, flatbuffer_format

LAYERS = keras.layers
SHAPE = (9, 8, 2)


def flat_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            LAYERS.Conv2D(6, 3, activation="relu", name="conv"),
            LAYERS.MaxPooling2D(2),
            LAYERS.Flatten(),
            LAYERS.Dense(5, name="logits"),
        ]
    )


def transpose_network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            LAYERS.Conv2DTranspose(4, 3, strides=2, activation="relu"),
            LAYERS.GlobalAveragePooling2D(),
            LAYERS.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((70, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, x):
    """Paths of one network as float file and as int8 file of each io, and of one whose batch is fixed."""
    folder, network = tmp_path_factory.mktemp("runtime"), flat_network()
    contents = {"float": lower(network), "fixed": lower(transpose_network(), x, "int8")}
    contents |= {io: lower(network, x, io) for io in ("int8", "uint8", "float32")}
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return {name: folder / f"{name}.tflite" for name in contents}


@pytest.fixture(scope="module")
def keras_outputs(x):
    return flat_network()(x).numpy()


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("name", ["float", "int8", "uint8", "float32"])
def test_predict_gives_keras_outputs(files, x, keras_outputs, runtime, name):
    file = Flatbuffer(files[name], runtime)
    outputs = file.predict(x)
    assert outputs.shape == (70, 5)
    assert outputs.dtype == np.float32
    tolerance = 1e-5 if name == "float" else 0.05 * np.abs(keras_outputs).max()
    np.testing.assert_allclose(outputs, keras_outputs, atol=tolerance)


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("name", ["int8", "fixed"])
def test_a_result_does_not_depend_on_batch_or_order(files, x, runtime, name):
    file = Flatbuffer(files[name], runtime)
    outputs = file.predict(x)
    np.testing.assert_array_equal(file.predict(x, batch_size=1), outputs)
    np.testing.assert_array_equal(file.predict(x, batch_size=1000), outputs)
    np.testing.assert_array_equal(file.predict(x[::-1], batch_size=7)[::-1], outputs)


def per_operator():
    """One network an operator whose int8 kernels round differently from runtime to runtime."""
    x = keras.Input(SHAPE)
    outputs = {
        "conv": LAYERS.Conv2D(8, 3)(x),
        "depthwise": LAYERS.DepthwiseConv2D(3)(x),
        "transposed": LAYERS.Conv2DTranspose(8, 3)(x),
        "dense": LAYERS.Dense(10)(LAYERS.Flatten()(x)),
        "mean": LAYERS.GlobalAveragePooling2D()(x),
        "leaky": LAYERS.LeakyReLU()(x),
        "add": LAYERS.Add()([x, LAYERS.MaxPooling2D(3, 1, padding="same")(x)]),
    }
    return {name: keras.Model(x, y) for name, y in outputs.items()}


@pytest.mark.parametrize("name", list(per_operator()))
def test_bit_exact_groups(name):
    """Runtimes of equal `kernels` agree bit by bit, all of them to one step an operator."""
    x = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype(np.float32)
    content = lower(per_operator()[name], x, "int8")
    groups = {}
    for runtime in available_runtimes():
        file = Flatbuffer.from_bytes(content, runtime)
        groups.setdefault(RUNTIMES[runtime].kernels, []).append(file.predict_raw(file.quantize(x)).astype(int))
    if len(available_runtimes()) == len(RUNTIMES):
        assert {kernels: len(group) for kernels, group in groups.items()} == {
            "xnnpack": 2, "builtin 2.14": 1, "builtin": 2, "reference": 2
        }  # fmt: skip
    for group in groups.values():
        for outputs in group[1:]:
            np.testing.assert_array_equal(outputs, group[0])
        assert np.abs(group[0] - groups["xnnpack"][0]).max() <= 1


def test_whole_networks_agree_to_a_few_steps(files, x):
    for name in ("int8", "fixed"):
        opened = [Flatbuffer(files[name], runtime) for runtime in available_runtimes()]
        raw = [file.predict_raw(file.quantize(x)).astype(int) for file in opened]
        assert max(np.abs(outputs - raw[0]).max() for outputs in raw) <= 3


def test_properties(files):
    file = Flatbuffer(str(files["int8"]))
    assert file.path == files["int8"]
    assert file.runtime in RUNTIMES
    assert (file.input_shape, file.output_shape) == (SHAPE, (5,))
    assert (file.input_dtype, file.output_dtype) == (np.int8, np.int8)
    scale, zero_point = file.input_quantization
    assert scale == pytest.approx(1 / 255, rel=0.01)
    assert zero_point == -128
    assert file.num_bytes == files["int8"].stat().st_size
    assert file.agreement is None
    assert "int8.tflite" in repr(file)
    plain = Flatbuffer(files["float"])
    assert plain.input_quantization is None
    assert plain.output_quantization is None


def test_only_graphs_that_keep_samples_apart_run_in_batches(files):
    assert Flatbuffer(files["int8"], "tf")._backend.max_batch > 1
    assert Flatbuffer(files["fixed"], "tf")._backend.max_batch == 1
    assert Flatbuffer(files["int8"], "tflm")._backend.max_batch == 1


def test_falls_back_to_single_samples_when_a_runtime_refuses_the_batch(files, x, monkeypatch):
    file = Flatbuffer(files["int8"], "tf")
    expected = file.predict(x)
    file = Flatbuffer(files["int8"], "tf")
    invoke = backends.InterpreterBackend.invoke

    def refuse(self, part):
        if len(part) > 1:
            raise RuntimeError("can't resize")
        return invoke(self, part)

    monkeypatch.setattr(backends.InterpreterBackend, "invoke", refuse)
    np.testing.assert_array_equal(file.predict(x), expected)


def test_values_outside_of_the_input_range_saturate(files, x):
    file = Flatbuffer(files["int8"])
    assert file.quantize(np.full((1, *SHAPE), 1e30)).min() == 127
    assert file.quantize(np.full((1, *SHAPE), -3)).max() == -128


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x[0], r"x\[None\]"),
        (lambda x: x[:, 1:], "Received the shape"),
        (lambda x: x[..., 0], "Received the shape"),
        (lambda x: x[:0], "no samples"),
        (lambda x: np.where(np.arange(70).reshape(-1, 1, 1, 1) == 3, np.nan, x), "NaN.*sample 3"),
        (lambda x: x.astype(complex), "complex"),
        (lambda x: x.astype(str), "elements of type"),
        (lambda x: None, "elements of type"),
        (lambda x: [[1.0], [1.0, 2.0]], "no array"),
    ],
)
def test_bad_x_is_refused(files, x, bad, message):
    with pytest.raises(ValueError, match=message):
        Flatbuffer(files["int8"]).predict(bad(x))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_bad_batch_size_is_refused(files, x, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        Flatbuffer(files["int8"]).predict(x, batch_size=batch_size)


def test_predict_raw_takes_only_the_files_type(files, x):
    with pytest.raises(ValueError, match=r"int8.*float32"):
        Flatbuffer(files["int8"]).predict_raw(x)


def test_unknown_runtime_lists_names_and_the_nearest(files):
    with pytest.raises(ValueError, match=r"'auto', 'litert'.*Did you mean 'tflite-runtime'"):
        Flatbuffer(files["int8"], "tflite_runtime")


@pytest.mark.parametrize(
    ("runtime", "command"),
    [("litert", r"keras-esq\[tflite\]"), ("tflite-runtime", r"keras-esq\[tflite\]"), ("tflm", r"keras-esq\[mcu\]")],
)
def test_missing_runtime_names_the_pip_command(files, monkeypatch, runtime, command):
    package = RUNTIMES[runtime].module.partition(".")[0]
    find = backends.importlib.util.find_spec
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda n: None if n == package else find(n))
    assert runtime not in available_runtimes()
    with pytest.raises(ImportError, match=f"pip install {command}"):
        Flatbuffer(files["int8"], runtime)


def test_auto_takes_the_first_that_is_installed(files, monkeypatch):
    find, missing = backends.importlib.util.find_spec, set()
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda n: None if n in missing else find(n))
    for package, expected in [
        ("", "litert"),
        ("ai_edge_litert", "tflite-runtime"),
        ("tflite_runtime", "tf"),
        ("tensorflow", "tflm"),
    ]:
        missing.add(package)
        if expected in available_runtimes():  # tflite-runtime is not, from Python 3.12 on
            assert Flatbuffer(files["int8"]).runtime == expected
    missing.add("tflite_micro")
    with pytest.raises(ImportError, match="pip install"):
        Flatbuffer(files["int8"])


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_threads": 1.5}, {"arena_size": 100_000}])
def test_bad_options_are_refused(files, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Flatbuffer(files["int8"], "tf", **options)


def test_tflm_arena(files, x):
    assert Flatbuffer(files["int8"], "tflm", arena_size=200_000).predict(x[:2]).shape == (2, 5)
    with pytest.raises(RuntimeError, match="larger arena_size"):
        Flatbuffer(files["int8"], "tflm", arena_size=1000)


def test_arena_report_and_operator_times(files, x):
    file = Flatbuffer(files["int8"], "tflm")
    report = file.arena_report()
    assert report.smallest == file.smallest_arena() >= report.activations + report.persistent
    assert Flatbuffer(files["int8"], "tflm", arena_size=report.smallest).predict(x[:1]).shape == (1, 5)
    with pytest.raises(RuntimeError, match="larger arena_size"):
        Flatbuffer(files["int8"], "tflm", arena_size=report.smallest - 16)
    assert sum(report.parts.values()) <= report.persistent
    assert report.activations >= 9 * 8 * 2 + 7 * 6 * 6
    assert "activations" in str(report)
    times = file.operator_times(repeats=3)
    assert [row.op for row in times.operators] == ["CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert sum(row.share for row in times.operators) == pytest.approx(1)
    assert all(row.microseconds > 0 for row in times.operators)
    assert max(times.operators, key=lambda row: row.share).op == "CONV_2D"
    assert times.microseconds > 0
    assert str(times).splitlines()[-1].startswith("inference")
    with pytest.raises(ValueError, match="repeats"):
        file.operator_times(repeats=0)


def test_arena_of_lookup_tables(tmp_path):
    """TFLM ends the process where look-up tables meet an arena that is far too small; it never sees such an arena."""
    keras.utils.set_random_seed(0)
    layers = [LAYERS.Conv2D(32, 3), LAYERS.Conv2D(64, 3), LAYERS.Flatten(), LAYERS.Dense(5)]
    model = quantize_model(keras.Sequential([keras.Input(SHAPE), *layers]), "ternary")
    data = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    path = tmp_path / "tables.tflite"
    smallest = convert(model, path, target="mcu", calibration=data).smallest_arena()
    code = f"""
from keras_esq.runtime import Flatbuffer
for size in (1, 1000, 2000, 3000, 4000, 6000, 8000, {smallest - 64}):
    try:
        Flatbuffer({str(path)!r}, "tflm", arena_size=size)
    except RuntimeError as error:
        assert "larger arena_size" in str(error)
    else:
        raise SystemExit(size)
file = Flatbuffer({str(path)!r}, "tflm", arena_size={smallest})
print([row.op for row in file.operator_times(1).operators], file.smallest_arena() == {smallest})
"""
    decoded = ["CONV_2D", "TFLM_DECODE+CONV_2D", "RESHAPE", "TFLM_DECODE+FULLY_CONNECTED"]
    assert run_python(code).splitlines()[-1] == f"{decoded} True"


def test_operator_times_of_a_file_for_phones(files, tmp_path):
    layers = [LAYERS.Flatten(), LAYERS.Dense(5)]
    model = quantize_model(keras.Sequential([keras.Input(SHAPE), *layers]), "ternary")
    file = convert(model, tmp_path / "x", target="phone", calibration=np.ones((2, *SHAPE)) / 2)
    with pytest.raises(RuntimeError, match="target='mcu'"):
        file.operator_times()


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Flatbuffer(tmp_path / "none.tflite")
    with pytest.raises(IsADirectoryError, match="folder"):
        Flatbuffer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"PK\x03\x04 a zip file", "TFL3"), (b"\x20\0\0\0TFL3", "damaged"), (b"\0" * 4000, "TFL3")],
)
def test_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Flatbuffer(path)


def test_truncated_files_are_refused(files, tmp_path, monkeypatch):
    """At every length, before an interpreter sees the bytes."""
    monkeypatch.setattr(backends, "_import", lambda name: pytest.fail("an interpreter saw a damaged file"))
    content = files["int8"].read_bytes()
    for length in range(0, len(content) - 4, 97):
        with pytest.raises(ValueError, match="Expected the bytes of a whole"):
            Flatbuffer.from_bytes(content[:length])


def test_mutated_files_are_an_error_or_a_consistent_tree(files):
    """Damaged offsets, lengths and indices never escape as another exception, nor take long."""
    content, rng = files["int8"].read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(8, len(content) - 4, 4):
            damaged[position : position + 4] = struct.pack("<I", rng.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x10000]))
        try:
            flatbuffer_format.parse(bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 100


def test_semantic_damage_is_named(files):
    """What is a valid flatbuffer and would still lead an interpreter astray."""
    import flatbuffers

    schema = flatbuffer_format._schema()

    def damaged(change):
        model = flatbuffer_format.parse(files["int8"].read_bytes())
        change(model, model.subgraphs[0])
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    assert schema.ModelT
    weights = 1

    def shorten(model, graph):
        buffer = model.buffers[graph.tensors[graph.operators[0].inputs[weights]].buffer]
        buffer.data = buffer.data[:-1]

    def other_scales(model, graph):
        quantization = graph.tensors[graph.operators[0].inputs[weights]].quantization
        quantization.scale = quantization.scale[:-1]

    def negative_scale(model, graph):
        graph.tensors[graph.inputs[0]].quantization.scale[:] = -1

    def missing_tensor(model, graph):
        graph.operators[0].inputs[0] = 99

    def out_of_order(model, graph):
        graph.operators.reverse()

    def missing_code(model, graph):
        graph.operators[0].opcodeIndex = 99

    def missing_buffer(model, graph):
        graph.tensors[0].buffer = 9999

    def no_graph(model, graph):
        model.subgraphs = []

    changes = [
        (shorten, "bytes of data"), (other_scales, "scales for"), (negative_scale, "no positive number"),
        (missing_tensor, "does not exist"), (out_of_order, "not computed before"), (missing_code, "no operator code"),
        (missing_buffer, "buffer 9999"), (no_graph, "no graph"),
    ]  # fmt: skip
    assert Flatbuffer.from_bytes(damaged(lambda model, graph: None)).output_shape == (5,)
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            Flatbuffer.from_bytes(damaged(change))


def test_several_inputs_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    import tensorflow as tf

    model = keras.Model([a, b], LAYERS.Add()([a, b]))
    function = tf.function(lambda x, y: model([x, y])).get_concrete_function(*[tf.TensorSpec((1, 4))] * 2)
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module()).convert()
    with pytest.raises(ValueError, match="Received 2 and 1"):
        Flatbuffer.from_bytes(content)


def test_the_schema_is_where_it_was():
    """`_schema` holds the one undocumented module of this room."""
    schema = flatbuffer_format._schema()
    assert schema.TensorType.INT8 == 9
    assert schema.TensorType.INT2 is not None
    assert schema.BuiltinOperator.CONV_2D == 3
    assert hasattr(schema.ModelT, "InitFromObj")


def test_constants_of_packed_types():
    packed = np.array([0b11_00_01_10], np.uint8)
    np.testing.assert_array_equal(flatbuffer_format._unpack(packed, 2, True), [-2, 1, 0, -1])
    np.testing.assert_array_equal(flatbuffer_format._unpack(np.array([0x8F], np.uint8), 4, True), [-1, -8])
    np.testing.assert_array_equal(flatbuffer_format._unpack(np.array([0x8F], np.uint8), 4, False), [15, 8])


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_importing_loads_no_runtime():
    code = (
        "import sys, keras_esq.runtime, keras_esq.conversion;"
        "print([m for m in ('ai_edge_litert', 'tflite_runtime', 'tflite_micro') if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


@pytest.mark.skipif("tflite-runtime" not in available_runtimes(), reason="no tflite-runtime for this Python")
def test_tflite_runtime_beside_tensorflow(files):
    """Imported after tensorflow in the ordinary way it breaks; ours works, and the other way is an error, no crash."""
    opened = f"print(Flatbuffer({str(files['int8'])!r}, 'tflite-runtime').output_shape)"
    user = "import tflite_runtime.interpreter"
    assert run_python(f"{user}; from keras_esq.runtime import Flatbuffer; {opened}").endswith("(5,)")
    late = (
        f"import tensorflow\n{user}\nfrom keras_esq.runtime import Flatbuffer\n"
        f"try:\n    {opened}\nexcept ImportError as error:\n    print(error)"
    )
    assert "imported after tensorflow" in run_python(late)
