"""quantize_model, strip, summary, tfmot's door and saving, on a network that has everything."""

import numpy as np
import pytest
import tensorflow as tf
from nets import layers, randomize, tiny, zoo

import keras_esq as esq
from keras_esq._keras import keras, tfmot_quantization
from keras_esq.quantize import (
    get_ratio,
    low_bit_weights,
    renew_partition,
    round_int8,
    set_ratio,
    with_l1_batchnorm,
)

KERNELS = ["stem", "conv", "other_conv", "separable", "separable", "transposed", "depthwise", "head"]


@pytest.fixture(scope="module")
def net():
    return zoo()


@pytest.mark.parametrize(("weights", "change"), [("binary", 1e-3), ("ternary", 1e-3), ("int8", 1e-5)])
def test_the_low_bit_net_computes_with_quantized_weights(net, images, weights, change):
    low_bit = esq.quantize_model(net, weights)
    assert [w.wrapper.name for w in low_bit_weights(low_bit)] == KERNELS
    assert all(isinstance(w.wrapper, tfmot_quantization.QuantizeWrapperV2) for w in low_bit_weights(low_bit))
    # By hand: the float net with its kernels replaced by the formulas.
    axes = {"pointwise_kernel": -1, "depthwise_kernel": (-2, -1)}
    by_hand = keras.models.clone_model(net)
    by_hand.set_weights(net.get_weights())
    quantize = {"binary": esq.binarize, "ternary": esq.ternarize, "int8": round_int8}[weights]
    for w in by_hand.weights:
        name = w.name.split("/")[-1].split(":")[0]
        if "kernel" in name:
            w.assign(quantize(w, -2 if "transposed" in w.name else axes.get(name, -1)))
    np.testing.assert_allclose(low_bit(images), by_hand(images), atol=1e-6)
    assert np.abs(low_bit(images) - net(images)).max() > change
    np.testing.assert_array_equal(esq.strip(low_bit)(images), low_bit(images))
    np.testing.assert_allclose(low_bit.losses, net.losses)  # the regularizer acts on the latent weights


def test_source_is_untouched_and_latent_weights_are_its_own(net, images):
    before, outputs = net.get_weights(), net(images).numpy()
    low_bit = esq.quantize_model(net, "ternary")
    by_name = {w.wrapper.name: w.latent.numpy() for w in low_bit_weights(low_bit) if w.attribute == "kernel"}
    np.testing.assert_array_equal(by_name["stem"], net.get_layer("stem").kernel)
    np.testing.assert_array_equal(by_name["other_conv"], net.get_layer("other").get_layer("conv").kernel)
    low_bit.compile("sgd", "sparse_categorical_crossentropy")
    low_bit.fit(images, np.arange(12) % 3, verbose=0)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs, net(images))


def test_values_after_training_are_exact_in_wrapper_and_strip(net, images):
    low_bit = esq.quantize_model(net, {"*": "ternary", "depthwise": "binary", "stem": None})
    low_bit.compile("adam", "sparse_categorical_crossentropy")
    low_bit.fit(images, np.arange(12) % 3, epochs=2, verbose=0)
    plain = esq.strip(low_bit)
    for weight in low_bit_weights(low_bit):
        stripped = getattr(plain.get_layer(weight.wrapper.name), weight.attribute).numpy()
        np.testing.assert_array_equal(stripped, weight.quantized)
        assert len(np.unique(np.abs(stripped[stripped != 0]))) <= weight.partition.shape.num_elements()
        assert (stripped != 0).all() or weight.quantizer.alias == "ternary"
    np.testing.assert_array_equal(plain(images), low_bit(images))
    assert not any(isinstance(layer, tfmot_quantization.QuantizeWrapper) for layer in plain.layers)


@pytest.mark.parametrize("activation_bits", [None, 8])
def test_stripped_to_its_latent_weights_it_can_be_quantized_anew(net, images, activation_bits):
    low_bit = esq.quantize_model(net, {"*": "ternary", "head": None}, activation_bits=activation_bits)
    low_bit.compile("adam", "sparse_categorical_crossentropy")
    low_bit.fit(images, np.arange(12) % 3, verbose=0)
    latent = esq.strip(low_bit, latent=True)
    for weight in low_bit_weights(low_bit):
        kernel = getattr(latent.get_layer(weight.wrapper.name), weight.attribute)
        np.testing.assert_array_equal(kernel, weight.latent)
        assert np.abs(kernel - weight.quantized).max() > 0.001
    np.testing.assert_array_equal(latent.get_layer("head").kernel, low_bit.get_layer("head").kernel)
    if not activation_bits:
        np.testing.assert_array_equal(
            esq.quantize_model(latent, {"*": "ternary", "head": None})(images), low_bit(images)
        )
    anew = esq.quantize_model(latent, "binary")
    assert {weight.quantizer.alias for weight in low_bit_weights(anew)} == {"binary"}


@pytest.mark.parametrize(
    ("weights", "skip", "quantized"),
    [
        ("ternary", (), KERNELS),
        ("ternary", "stem", KERNELS[1:]),
        ("ternary", ["stem", "head"], KERNELS[1:-1]),
        ("ternary", ["*conv"], [k for k in KERNELS if "conv" not in k]),
        ({"head": "binary"}, (), ["head"]),
        # An exact name, a layer's own or the one inside its nested model, goes before a glob.
        ({"*": "binary", "conv": None}, (), [k for k in KERNELS if "conv" not in k]),
        ({"*": "binary", "other_conv": None}, (), [k for k in KERNELS if k != "other_conv"]),
        ({"s*": None, "*": "ternary"}, (), ["conv", "other_conv", "transposed", "depthwise", "head"]),
        (esq.Ternary(threshold=0.5), (), KERNELS),
        (esq.Binary, (), KERNELS),
    ],
)
def test_which_layers_are_quantized(net, weights, skip, quantized):
    low_bit = esq.quantize_model(net, weights, skip=skip)
    assert [w.wrapper.name for w in low_bit_weights(low_bit)] == quantized


def test_settings_reach_the_quantizers(net):
    low_bit = esq.quantize_model(net, esq.Ternary(threshold=0.5), probability="softmax", partition="real")
    for weight in low_bit_weights(low_bit):
        config = weight.quantizer.get_config()
        assert (config["threshold"], config["probability"], config["partition"]) == (0.5, "softmax", "real")
    with pytest.raises(ValueError, match="one value of probability"):
        esq.quantize_model(net, esq.Binary(probability="sigmoid"), probability="softmax")


@pytest.mark.parametrize("outputs", ["a", ["a", "b"], {"one": "a"}, {"z": "a", "y": "b"}, {"u": ["a", "b"], "t": "b"}])
@pytest.mark.parametrize("inputs", ["x", {"image": "x"}])
def test_inputs_and_outputs_keep_their_structure(inputs, outputs, images):
    x = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    tensors = {"x": x, "a": layers.Dense(3)(pooled), "b": layers.Dense(2)(pooled)}
    model = keras.Model(*tf.nest.map_structure(tensors.get, (inputs, outputs)))
    low_bit = esq.quantize_model(model, "ternary")
    data = tf.nest.map_structure(lambda _: images, inputs)
    expected = tf.nest.map_structure(np.shape, model(data))
    for one in (low_bit, esq.strip(low_bit)):
        assert tf.nest.map_structure(np.shape, one(data)) == expected


def test_shared_layers_stay_shared(net):
    low_bit = esq.quantize_model(net, "binary")
    assert sum("conv" in layer.name for layer in low_bit.layers) == 2  # the shared block's, once, and the other's
    assert low_bit.count_params() > 0
    assert len(low_bit.get_layer("conv").inbound_nodes) == 2


@pytest.mark.parametrize("call", [{"training": False}, {"training": True}, False, {}])
def test_nested_models_keep_the_mode_that_they_were_called_in(images, call):
    deep = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(), layers.Flatten(), layers.Dense(4)])
    inner = keras.Input((8, 8, 3))
    block = keras.Model(inner, layers.BatchNormalization()(deep(inner)))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, block(inputs, **call) if isinstance(call, dict) else block(inputs, call))
    for copy in (esq.quantize_model(model, "int8"), esq.strip(model)):
        for training in (False, True):
            expected = model(images, training=training)
            np.testing.assert_allclose(copy(images, training=training), expected, atol=0.1)


def test_inputs_and_outputs_keep_their_keys(images, tmp_path):
    image, size = keras.Input((8, 8, 3), name="z"), keras.Input((2,), name="a")
    x = layers.Concatenate()([layers.Flatten()(image), size])
    model = keras.Model({"image": image, "size": size}, {"kind": layers.Dense(3)(x), "colour": layers.Dense(2)(x)})
    data = {"size": np.ones((12, 2), np.float32), "image": images}
    low_bit = esq.quantize_model(model, "int8")
    low_bit.save(tmp_path / "model.keras")
    for copy in (low_bit, esq.strip(low_bit), esq.load_model(tmp_path / "model.keras")):
        outputs = copy.predict(data, verbose=0)
        for name, expected in model(data).items():
            np.testing.assert_allclose(outputs[name], expected, atol=0.05)
    low_bit.compile("sgd", {"kind": "mse", "colour": "mae"})
    low_bit.fit(data, {"kind": np.zeros((12, 3)), "colour": np.zeros((12, 2))}, verbose=0)


def test_wrapped_layers_keep_activity_regularizers_and_masks(tmp_path):
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True)(inputs)
    x = layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l1")(x)
    model = keras.Model(inputs, layers.LSTM(2)(x))
    low_bit = esq.quantize_model(model, "int8")
    low_bit.save(tmp_path / "model.keras")
    words = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    for copy in (low_bit, esq.load_model(tmp_path / "model.keras", compile=False)):
        np.testing.assert_allclose(copy(words, training=True), model(words, training=True), atol=0.01)
        np.testing.assert_allclose(sorted(copy.losses), sorted(model.losses), rtol=0.1)


class Pair(layers.Layer):
    """Two kernels of one shape, in layers that its config does not tell of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(3), layers.Dense(3)

    def call(self, x):
        return self.second(self.first(x))


def test_layers_inside_of_layers_stay_frozen():
    model = keras.Sequential([keras.Input((3,)), Pair(name="pair"), layers.Dense(2)])
    model.layers[0].first.trainable = False
    x = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    low_bit = esq.quantize_model(model, "int8")
    for copy in (low_bit, esq.strip(low_bit), with_l1_batchnorm(model)):
        np.testing.assert_allclose(copy(x), model(x), atol=0.05)
        assert len(copy.get_layer("pair").trainable_weights) == 2


def subclassed():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    model = Subclassed(name="mine")
    model(np.zeros((1, 2), np.float32))
    return model


class Scaled(keras.Model):
    """Keeps a network in `network`, and is not what it is."""

    def __init__(self):
        super().__init__(name="scaled")
        self.network = tiny()

    def call(self, x):
        return self.network(2 * x - 1)


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "words"),
    [
        (subclassed, {}, TypeError, "mine.*subclassed"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, ValueError, "keras.Input"),
        (lambda: "model.keras", {}, TypeError, "tf_keras.Model"),
        (Scaled, {}, TypeError, "scaled.*subclassed"),
        (tiny, {"skip": "con"}, ValueError, "con.*conv"),
        (tiny, {"skip": None}, TypeError, "skip.*None"),
        (tiny, {"skip": [0]}, TypeError, "names or globs in skip"),
        (tiny, {"weights": {0: "binary"}}, TypeError, "names or globs in weights"),
        (tiny, {"weights": {"haed": "binary"}}, ValueError, "head"),
        (tiny, {"weights": {"bn": "binary"}}, ValueError, "layer with a kernel"),
        (tiny, {"weights": "quaternary"}, ValueError, "ternary"),
        (tiny, {"weights": None}, TypeError, "quantizer"),
        (tiny, {"skip": "*"}, ValueError, "at least one layer"),
        (tiny, {"activation_bits": 1}, ValueError, "activation_bits"),
        (tiny, {"probability": "normal"}, ValueError, "probability"),
        (lambda: esq.quantize_model(tiny(), "binary"), {}, ValueError, "already"),
    ],
)
def test_what_cannot_be_done_is_refused(model, kwargs, error, words):
    with pytest.raises(error, match=words):
        esq.quantize_model(model(), **{"weights": "ternary", **kwargs})


def test_keras_3_models_are_translated():
    script = __import__("importlib").import_module("keras")
    model = script.Sequential([script.Input((4,)), script.layers.Dense(2, name="head")])
    low_bit = esq.quantize_model(model, "ternary")
    np.testing.assert_array_equal(low_bit_weights(low_bit)[0].latent, model.get_layer("head").get_weights()[0])


def test_training_mode_sees_the_partition_and_inference_does_not(images):
    low_bit = esq.quantize_model(tiny(), "ternary")
    full = low_bit(images, training=False).numpy()
    set_ratio(low_bit, 0.5)
    renew_partition(low_bit_weights(low_bit), [1, 2])
    conv = low_bit_weights(low_bit)[0]
    assert conv.partition.numpy().sum() == 2
    mixed = conv.quantizer.mix(conv.latent, conv.quantized, conv.partition).numpy()
    real = conv.partition.numpy() == 0
    np.testing.assert_array_equal(mixed[..., real], conv.latent.numpy()[..., real])
    np.testing.assert_array_equal(mixed[..., ~real], conv.quantized.numpy()[..., ~real])
    np.testing.assert_array_equal(low_bit(images, training=False), full)
    assert np.abs(low_bit.get_layer("conv")(images, training=True) - low_bit.get_layer("conv")(images)).max() > 1e-3
    set_ratio(low_bit, 1.0)
    np.testing.assert_array_equal(conv.partition, [1, 1, 1, 1])
    for wrong in (1.5, float("nan")):
        with pytest.raises(ValueError, match="0 to 1"):
            set_ratio(low_bit, wrong)
    with pytest.raises(ValueError, match="low-bit"):
        set_ratio(tiny(), 0.5)


@pytest.mark.parametrize("suffix", [".keras", "", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_saved_models_come_back_exactly_with_their_state(net, images, tmp_path, suffix):
    low_bit = esq.quantize_model(net, "ternary", partition="real", activation_bits=8)
    low_bit.compile("adam", "sparse_categorical_crossentropy")
    low_bit.fit(images, np.arange(12) % 3, verbose=0)
    set_ratio(low_bit, 0.5)
    renew_partition(low_bit_weights(low_bit), [1, 2])
    for number in range(2):  # a loaded model must itself be fit to be saved
        path = f"{tmp_path}/model{number}{suffix}"
        low_bit.save(path)
        loaded = esq.load_model(path)
        np.testing.assert_array_equal(loaded(images), low_bit(images))
        assert get_ratio(loaded) == 0.5
        for old, new in zip(low_bit_weights(low_bit), low_bit_weights(loaded), strict=True):
            assert old.quantizer == new.quantizer
            np.testing.assert_array_equal(old.partition, new.partition)
            np.testing.assert_array_equal(old.latent, new.latent)
        loaded.fit(images, np.arange(12) % 3, verbose=0)
        low_bit = loaded
        set_ratio(low_bit, 0.5)


@pytest.mark.parametrize("suffix", [".keras", "", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_frozen_layers_stay_what_they_are_and_can_be_saved(net, images, tmp_path, suffix):
    low_bit = esq.quantize_model(net, "ternary", activation_bits=8)
    names = ("stem", "separable", "transposed", "head")

    def own(model, name):  # without the layers' names, which differ in a file
        return [weight.name.split("/")[-1] for weight in model.get_layer(name).weights]

    order = {name: own(low_bit, name) for name in names}
    for name in names:
        low_bit.get_layer(name).trainable = False
        assert low_bit.get_layer(name).trainable_weights == []
        assert sorted(own(low_bit, name)) == sorted(order[name])
    low_bit.compile("adam", "sparse_categorical_crossentropy")

    def kernels(model):
        return {(one.wrapper.name, one.attribute): one.latent.numpy() for one in low_bit_weights(model)}

    before = kernels(low_bit)
    low_bit.fit(images, np.arange(12) % 3, verbose=0)
    path = f"{tmp_path}/model{suffix}"
    low_bit.save(path)
    loaded = esq.load_model(path)
    np.testing.assert_array_equal(loaded(images), low_bit(images))
    assert not any(loaded.get_layer(name).trainable for name in names)
    loaded.fit(images, np.arange(12) % 3, verbose=0)
    for (name, attribute), kernel in kernels(loaded).items():
        assert np.array_equal(kernel, before[name, attribute]) == (name in names)
    for name in names:
        loaded.get_layer(name).trainable = True
        assert own(loaded, name) == order[name]


def test_files_in_which_tfmot_listed_kernels_twice_come_back(net, images):
    low_bit, other = esq.quantize_model(net, "binary"), esq.quantize_model(net, "binary")
    randomize(other, seed=9)
    for old, new in zip(low_bit.layers, other.layers, strict=True):
        if not isinstance(old, tfmot_quantization.QuantizeWrapper):
            new.set_weights(old.get_weights())
            continue
        own, inner = {}, {}
        old.save_own_variables(own)
        old.layer.save_own_variables(inner)
        doubled = [weight.numpy() for weight in old.layer.trainable_weights] + list(own.values())
        new.load_own_variables({str(number): value for number, value in enumerate(doubled)})
        new.layer.load_own_variables(inner)
    np.testing.assert_array_equal(other(images), low_bit(images))
    with pytest.raises(ValueError, match="expected 4 variables"):
        low_bit.get_layer("stem").load_own_variables({"0": 0})


def test_checkpoints_hold_the_latent_weights(net, images, tmp_path):
    low_bit = esq.quantize_model(net, "binary")
    outputs = low_bit(images).numpy()
    path = tf.train.Checkpoint(model=low_bit).save(f"{tmp_path}/checkpoint")
    randomize(low_bit, seed=9)
    tf.train.Checkpoint(model=low_bit).restore(path).assert_consumed()
    np.testing.assert_array_equal(low_bit(images), outputs)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda folder: folder / "nothing.keras", FileNotFoundError, "nothing"),
        (lambda folder: _written(folder / "foreign.keras", b"no model"), ValueError, "foreign"),
        (lambda folder: _exported(folder / "exported"), ValueError, r"exported.*model\.save\('model\.keras'\)"),
    ],
)
def test_load_model_of_what_is_no_model(tmp_path, make, error, words):
    with pytest.raises(error, match=words):
        esq.load_model(make(tmp_path))


def _exported(path):
    tf.saved_model.save(tf.Module(), str(path))
    return path


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bits", [None, 8])
def test_tfmots_own_door_leads_to_the_same_model(images, bits):
    model = tiny()
    randomize(model)
    q = tfmot_quantization
    other = q.quantize_apply(q.quantize_annotate_model(model), scheme=esq.LowBitScheme("ternary", activation_bits=bits))
    ours = esq.quantize_model(model, "ternary", activation_bits=bits)
    np.testing.assert_array_equal(other(images), ours(images))
    assert [layer.name for layer in other.layers] == [layer.name for layer in ours.layers]
    assert [w.quantizer for w in low_bit_weights(other)] == [w.quantizer for w in low_bit_weights(ours)]


def test_tfmots_annotations_of_single_layers(images, tmp_path):
    annotate = tfmot_quantization.quantize_annotate_layer
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.BatchNormalization(),  # first, as in pre-activation nets; tfmot's own scheme rejects it
            annotate(layers.Conv2D(4, 3, name="a"), esq.BinaryQuantizeConfig()),
            annotate(layers.Conv2D(4, 3, name="b"), esq.TernaryQuantizeConfig(threshold=0.5)),
            annotate(layers.Conv2D(4, 3, name="c"), esq.Int8QuantizeConfig()),
            layers.GlobalAveragePooling2D(),
            annotate(layers.Dense(3, name="d")),
        ]
    )
    low_bit = tfmot_quantization.quantize_apply(model, scheme=esq.LowBitScheme("ternary"))
    found = {w.wrapper.name: w.quantizer for w in low_bit_weights(low_bit)}
    assert {name: (q.alias, getattr(q, "threshold", None)) for name, q in found.items()} == {
        "a": ("binary", None),
        "b": ("ternary", 0.5),
        "c": ("int8", None),
        "d": ("ternary", 0.7),
    }
    low_bit.save(f"{tmp_path}/model.keras")
    np.testing.assert_array_equal(esq.load_model(f"{tmp_path}/model.keras")(images), low_bit(images))


def test_activation_quantizers_stand_where_an_int8_file_has_tensors(net, images):
    low_bit = esq.quantize_model(net, "ternary", activation_bits=8)
    with_range = {layer.name for layer in low_bit.layers if any("output_max" in w.name for w in layer.weights)}
    assert with_range == {"first_bn", "stem", "act", "other_act", "separable", "transposed", "depthwise"}
    low_bit(images, training=True)
    inputs, inner = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = keras.Model(inner, layers.Conv2D(4, 3, name="conv")(inner))(inputs)
    nested = keras.Model(inputs, layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x)))
    nested = esq.quantize_model(nested, "ternary", activation_bits=8)
    assert [w.name for w in nested.weights if "output_max" in w.name] == ["relu/output_max:0"]
    sequential = esq.quantize_model(tiny(), "ternary", activation_bits=8)
    outputs = sequential.get_layer("relu")(np.linspace(-9, 9, 8 * 36 * 4, dtype=np.float32).reshape(8, 6, 6, 4))
    assert len(np.unique(outputs)) <= 256


def test_summary_counts(net):
    low_bit = esq.quantize_model(net, {"stem": None, "head": "binary", "depthwise": "int8", "*": "ternary"})
    rows = {row.name: row for row in esq.summary(low_bit).rows}
    assert (rows["stem"].bits, rows["head"].bits, rows["conv"].bits) == (32, 1, 2)
    assert rows["stem"].macs == 6 * 6 * 3 * 3 * 3 * 4
    assert rows["conv"].macs == 2 * 6 * 6 * 3 * 3 * 4 * 4  # shared, used twice
    assert rows["separable"].macs == 4 * 4 * (3 * 3 * 4 + 4 * 6)
    assert rows["transposed"].macs == 4 * 4 * 3 * 3 * 6 * 5
    assert rows["depthwise"].macs == 4 * 4 * 3 * 3 * 5 * 2
    assert rows["head"].weights == 160 * 3
    assert rows["head"].low_bit_bytes == 160 * 3 // 8 + 4 * 3 + 4 * 3
    assert (rows["depthwise"].bits, rows["depthwise"].quantizer) == (8, "int8")
    assert rows["depthwise"].low_bit_bytes == 90 + 4 * 10 + 4 * 10
    assert rows["conv"].low_bit_bytes == 144 // 4 + 4 * 4 + 4 * 4
    assert 0.1 < rows["conv"].zeros < 0.7
    assert rows["head"].zeros == 0
    report = esq.summary(low_bit)
    assert report.totals.weights + report.totals.other_weights == net.count_params()
    assert report.totals.float_bytes == 4 * net.count_params()
    assert all(row.name in str(report) for row in report.rows)
    assert esq.summary(net).totals.macs == report.totals.macs  # nested models count the same as flat ones
    assert esq.summary(net).bits_per_weight == 32
