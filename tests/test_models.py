"""The reference networks: their sizes against the papers', and their way through quantization."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.models.resnet import bottleneck_resnet

# Small enough to be run, of the same build as the ones of the papers.
SMALL = {
    "wide_resnet": lambda: esq.models.wide_resnet(10, 2, input_shape=(8, 8, 3), classes=7),
    "resnet_cifar": lambda: esq.models.resnet_cifar(8, input_shape=(8, 8, 3), classes=7, width=4),
    "bottleneck": lambda: bottleneck_resnet((1, 1, 1, 1), (8, 8, 3), 7, 4, "bottleneck"),
    "vgg9": lambda: esq.models.vgg9(input_shape=(8, 8, 3), classes=7, width=4),
    "ds_cnn": lambda: esq.models.ds_cnn(input_shape=(8, 8, 3), classes=7, width=4),
    "small_cnn": lambda: esq.models.small_cnn(input_shape=(8, 8, 3), classes=7, width=4),
    "small_cnn hidden": lambda: esq.models.small_cnn((8, 8, 3), 7, width=4, strides=(2, 2, 2), hidden=6),
}


def trainable_weights(build):
    """Number of trainable weights, without making them: in a graph, a variable is a shape."""
    with tf.Graph().as_default():
        return sum(int(np.prod(weight.shape)) for weight in build().trainable_weights)


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [
        (28, 10, 36.5),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in [(16, 8, 11.0), (40, 4, 8.9), (22, 8, 17.2)]),
    ],
)
def test_wide_resnet_weights(depth, width, millions):
    """Zagoruyko and Komodakis 2016, tables 2, 4 and 5."""
    weights = trainable_weights(lambda: esq.models.wide_resnet(depth, width))
    assert round(weights / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("depth", "millions"),
    [
        (20, 0.27),
        (32, 0.46),
        (56, 0.85),
        pytest.param(44, 0.66, marks=pytest.mark.slow),
        pytest.param(110, 1.7, marks=pytest.mark.slow),
    ],
)
def test_resnet_weights(depth, millions):
    """He et al. 2015, table 6, where the shortcuts have no weights; here two of them are projections."""
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    weights = trainable_weights(lambda: esq.models.resnet_cifar(depth)) - projections
    assert round(weights / 1e6, 2 if millions < 1 else 1) == millions


def test_vgg9_weights():
    """[SQ]: 2 x 64C3, 2 x 128C3, 2 x 256C3, 2 x 512FC, 10FC, all but the last with BatchNormalization."""
    channels = [3, 64, 64, 128, 128, 256, 256]
    convolutions = sum(9 * a * b for a, b in itertools.pairwise(channels))
    dense = 4 * 4 * 256 * 512 + 512 * 512 + 512 * 10 + 10
    normalization = 2 * (sum(channels[1:]) + 512 + 512)
    assert trainable_weights(esq.models.vgg9) == convolutions + dense + normalization


def test_ds_cnn_weights():
    assert trainable_weights(esq.models.ds_cnn) == 140_362
    assert trainable_weights(lambda: esq.models.ds_cnn(width=16)) == 37_930


@pytest.mark.parametrize(
    ("options", "pixels", "head"),
    [
        ({}, 2 * 2, 16),
        ({"strides": [2, 2, 2]}, 1, 16),
        ({"hidden": 6}, 2 * 2, 6),
        ({"strides": (2, 1, 1), "hidden": 6}, 4 * 4, 6),
    ],
)
def test_small_cnn_weights(options, pixels, head):
    """Without a hidden layer the resolution changes no number of weights."""
    convolutions = 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16)
    hidden = pixels * 16 * 6 + 2 * 6 if "hidden" in options else 0
    nets = []
    weights = trainable_weights(lambda: nets.append(esq.models.small_cnn((8, 8, 3), 7, 4, **options)) or nets[0])
    assert weights == convolutions + hidden + head * 7 + 7
    assert np.prod(nets[0].get_layer("relu3").output_shape[1:3]) == pixels


def test_resnet152():
    """ImageNet's ResNet-152 has 60,192,808 weights, of which its first convolution is 7x7 instead of 3x3.

    [ESQ], table 5, pairs after the residual modules 4, 12 and 48, the first of a stage each.
    """
    nets = []
    weights = trainable_weights(lambda: nets.append(esq.models.resnet152_cifar(classes=1000)) or nets[0])
    assert weights == 60_192_808 - 64 * 3 * (7 * 7 - 3 * 3)
    modules = [layer.name for layer in nets[0].layers if layer.name.endswith("_out")]
    assert len(modules) == 50
    assert [modules[n - 1] for n in (4, 12, 48)] == [f"stage{n}_block1_out" for n in (2, 3, 4)]
    assert [nets[0].get_layer(modules[n - 1]).output_shape[1] for n in (3, 4, 12, 48)] == [32, 16, 8, 4]


@pytest.mark.parametrize("name", SMALL)
def test_quantized_and_stripped(name):
    net = SMALL[name]()
    x = np.random.default_rng(0).random((4, 8, 8, 3), dtype=np.float32)
    assert net.output_shape == (None, 7)
    assert net.layers[-1].name == "logits"
    assert net.layers[-1].activation is keras.activations.linear
    assert np.isfinite(net(x)).all()
    low_bit = esq.quantize_model(net, "ternary")
    plain = esq.strip(low_bit)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in net.layers]
    np.testing.assert_allclose(plain(x), low_bit(x), rtol=1e-4, atol=1e-5)
    for layer in plain.layers:
        for kernel in (w for w in layer.weights if "kernel" in w.name):
            flat = kernel.numpy().reshape(-1, kernel.shape[-1])
            if "depthwise" in kernel.name:
                flat = kernel.numpy().reshape(9, -1)
            assert all(len(np.unique(np.abs(column[column != 0]).round(6))) <= 1 for column in flat.T), layer.name


@pytest.mark.parametrize("name", SMALL)
def test_trains_one_step(name):
    x = np.random.default_rng(0).random((8, 8, 8, 3), dtype=np.float32)
    net = SMALL[name]()
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [w.numpy() for w in net.trainable_weights]
    assert np.isfinite(net.train_on_batch(x, np.arange(8) % 7))
    assert all((w.numpy() != old).any() for w, old in zip(net.trainable_weights, before, strict=True) if old.ndim > 1)


def test_nothing_between_depthwise_and_pointwise():
    """Sheng et al. 2018: no BatchNormalization and no activation there."""
    net = SMALL["ds_cnn"]()
    depthwise = [layer for layer in net.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert len(depthwise) == 6
    for layer in depthwise:
        (node,) = layer.outbound_nodes
        assert isinstance(node.layer, keras.layers.Conv2D)
        assert node.layer.kernel_size == (1, 1)
        assert layer.activation is keras.activations.linear


def test_pre_activation():
    """In a wide residual net BatchNormalization and ReLU stand before each convolution, and before the head."""
    net = SMALL["wide_resnet"]()
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            (node,) = layer.outbound_nodes
            assert isinstance(node.layer, keras.layers.ReLU)
        if isinstance(layer, keras.layers.Add):
            assert any(isinstance(node.layer, keras.layers.BatchNormalization) for node in layer.outbound_nodes)


def test_dropout_of_vgg9_is_a_choice():
    with tf.Graph().as_default():
        nets = [esq.models.vgg9(width=2, dropout=choice) for choice in (True, False)]
    counts = [sum(isinstance(layer, keras.layers.Dropout) for layer in net.layers) for net in nets]
    assert counts == [5, 0]


@pytest.mark.parametrize(
    ("name", "network", "weights"),
    [
        ("small_cnn", "small_cnn", None),
        ("ds_cnn", "ds_cnn", None),
        ("vgg9", "vgg9", None),
        ("resnet20", "resnet20", None),
        ("resnet-32", "resnet32", None),
        ("wrn16-4", "wrn16-4", 2_748_890),
        ("wrn-10-2", "wrn10-2", None),
    ],
)
def test_build_by_name(name, network, weights):
    nets = []

    def build():
        nets.append(esq.models.build(name, (32, 32, 3), 10))
        return nets[-1]

    assert trainable_weights(build) == weights or weights is None
    assert nets[0].name == network
    assert nets[0].input_shape == (None, 32, 32, 3)
    assert nets[0].output_shape == (None, 10)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: m.build("wrn28_10", (8, 8, 3), 10), ValueError, "Did you mean 'wrn28-10'"),
        (lambda m: m.build("alexnet", (8, 8, 3), 10), ValueError, "Known: ds_cnn"),
        (lambda m: m.build(20, (8, 8, 3), 10), TypeError, "name of a network"),
        (lambda m: m.build("resnet21", (8, 8, 3), 10), ValueError, "6n"),
        (lambda m: m.resnet_cifar(21), ValueError, "20, 32, 44, 56 or 110.*21"),
        (lambda m: m.resnet_cifar(2), ValueError, "6n"),
        (lambda m: m.resnet_cifar(-4), ValueError, "depth"),
        (lambda m: m.resnet_cifar("20"), TypeError, "depth"),
        (lambda m: m.resnet_cifar(20.0), TypeError, "depth"),
        (lambda m: m.wide_resnet(26), ValueError, "10, 16, 22, 28 or 40.*26"),
        (lambda m: m.wide_resnet(4), ValueError, "6n"),
        (lambda m: m.wide_resnet(28, 0), ValueError, "width"),
        (lambda m: m.wide_resnet(28, 1.5), TypeError, "width"),
        (lambda m: m.vgg9((4, 32, 3)), ValueError, "at least 8x8"),
        (lambda m: m.vgg9(dropout=0.5), TypeError, "True or False"),
        (lambda m: m.ds_cnn(classes=0), ValueError, "classes"),
        (lambda m: m.small_cnn((8, 8)), ValueError, "height, width, channels"),
        (lambda m: m.small_cnn((None, 8, 8, 1)), ValueError, "batch axis"),
        (lambda m: m.small_cnn(8), TypeError, "height, width, channels"),
        (lambda m: m.small_cnn(strides=2), TypeError, "three whole numbers"),
        (lambda m: m.small_cnn(strides=(2, 2)), ValueError, "three convolutions"),
        (lambda m: m.small_cnn(strides=(2, 2, 0)), ValueError, "strides"),
        (lambda m: m.small_cnn(hidden=-1), ValueError, "hidden"),
        (lambda m: m.small_cnn(hidden=1.5), TypeError, "hidden"),
        (lambda m: m.resnet152_cifar((32, 0, 3)), ValueError, "input_shape"),
        (lambda m: m.resnet152_cifar((32, None, 3)), TypeError, "input_shape"),
        (lambda m: m.ds_cnn((32, 32, 3), True), TypeError, "classes"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call(esq.models)


@pytest.mark.slow
def test_the_papers_networks_are_quantized_and_stripped():
    """The two networks of [ESQ] in full depth, narrow: all their layers go through."""
    x = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
    shape = (16, 16, 3)
    for net in (esq.models.wide_resnet(28, 1, shape), esq.models.resnet152_cifar(shape, width=4)):
        low_bit = esq.quantize_model(net, "binary")
        np.testing.assert_allclose(esq.strip(low_bit)(x), low_bit(x), rtol=1e-3, atol=1e-3)
