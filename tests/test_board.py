"""What TensorBoard is told of the quantization."""

import numpy as np
import pytest
import tensorflow as tf
from nets import tiny

import keras_esq as esq
from keras_esq.quantize import low_bit_weights
from keras_esq.training.board import QuantizationBoard, scales

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_figures_by_epoch(tmp_path):
    low_bit = esq.quantize_model(tiny(), "ternary")
    model = esq.ErrorSilencedModel(low_bit, objective="natural")
    model.compile("adam", "sparse_categorical_crossentropy")
    before = {w.wrapper.name: np.sign(w.quantized) for w in low_bit_weights(low_bit)}
    x = np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32)
    callbacks = [esq.QuantizationRatio("full"), QuantizationBoard(tmp_path)]
    model.fit(x, np.arange(12) % 3, epochs=1, verbose=0, callbacks=callbacks)
    events = event_accumulator.EventAccumulator(str(tmp_path / "quantization"))
    events.Reload()
    tags = events.Tags()
    assert "ratio" in tags["tensors"]

    def value(tag):
        (event,) = events.Tensors(tag)
        return float(tf.make_ndarray(event.tensor_proto))

    assert value("ratio") == 1
    for weight in low_bit_weights(low_bit):
        name, quantized = f"{weight.wrapper.name}/{weight.attribute}", weight.quantized.numpy()
        assert value(f"{name}/zeros") == pytest.approx(np.mean(quantized == 0), abs=1e-6)
        flips = np.mean(np.sign(quantized) != before[weight.wrapper.name])
        assert value(f"{name}/flips") == pytest.approx(flips, abs=1e-6)
        assert f"{name}/scales" in tags["tensors"]
        assert set(np.round(np.abs(quantized[quantized != 0]), 6)) <= set(np.round(scales(weight, quantized), 6))


def test_float_models_have_nothing_to_show(tmp_path):
    model = esq.ErrorSilencedModel(tiny(), objective="natural")
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="only float weights"):
        model.fit(np.zeros((4, 8, 8, 3)), np.zeros(4, int), verbose=0, callbacks=[QuantizationBoard(tmp_path)])
