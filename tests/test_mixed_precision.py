"""Half precision: train, attack, save, convert."""

import numpy as np
import pytest

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("attack", [esq.attacks.FGSM, esq.attacks.PGD, esq.attacks.APGD, esq.attacks.DDN])
@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_confident_networks_are_attacked_as_in_float32(policy, attack):
    """Where classes lead by 20 to 40 the gradient of the cross-entropy is below float16's smallest number."""
    settings = {"steps": 10} if attack is not esq.attacks.FGSM else {}
    if attack is esq.attacks.PGD:
        settings["step_size"] = 0.1
    weights = np.random.default_rng(0).normal(size=(16, 3))
    x = np.random.default_rng(1).random((200, 16)).astype(np.float32)
    networks = [
        keras.Sequential([keras.Input((16,)), keras.layers.Dense(3, use_bias=False, dtype=dtype)])
        for dtype in (policy, "float32")
    ]
    for network in networks:
        network.set_weights([20 * weights])
    scores = np.sort(x @ (20 * weights), axis=1)
    x = x[(scores[:, -1] - scores[:, -2] > 20) & (scores[:, -1] - scores[:, -2] < 40)]
    y = (x @ weights).argmax(axis=1)
    half, single = (attack(eps=0.5, seed=1, **settings).run(network, x, y).success.mean() for network in networks)
    assert single > 0.5
    assert half > single - 0.1


@pytest.mark.parametrize("activation_bits", [None, 8])
def test_mixed_precision(policy, activation_bits, tmp_path):
    digits = esq.data.load("digits")
    keras.utils.set_random_seed(0)
    low_bit = esq.quantize_model(esq.models.small_cnn(width=4), "ternary", activation_bits=activation_bits)
    # Outside of a layer's call: what the optimizer updates.
    assert {weight.latent.dtype.name for weight in low_bit_weights(low_bit)} == {"float32"}
    # Half of the loss on clean images: after three epochs classes are clear enough to be compared.
    objective = esq.training.AdversarialPairing(adversarial_share=0.5)
    attack = esq.attacks.PGD(eps=0.1, step_size=0.03, steps=1)
    model = esq.ErrorSilencedModel(low_bit, attack=attack, objective=objective)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = digits.x_train[:300], digits.y_train[:300]
    losses = model.fit(x, y, epochs=3, verbose=0, callbacks=[esq.QuantizationRatio("uniform")]).history["loss"]
    assert losses[-1] < losses[0]
    latent = esq.strip(model, latent=True)
    assert {layer.compute_dtype for layer in latent.layers} == {layer.compute_dtype for layer in low_bit.layers}
    kernels = [layer.get_weights()[0] for layer in esq.strip(model).layers if hasattr(layer, "kernel")]
    assert all(len(np.unique(kernel[..., 0])) <= 3 for kernel in kernels)
    model.save(tmp_path / "model.keras")
    loaded = esq.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0))
    file = esq.convert(model, tmp_path / "model.tflite", target="phone", calibration=x[:50])
    classes = model.predict(x, verbose=0).argmax(axis=1)
    assert np.mean(file.predict(x).argmax(axis=1) == classes) > 0.9
