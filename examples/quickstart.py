"""From a float Keras model to a robust ternary .tflite, on scikit-learn's digits, in about a minute.

python examples/quickstart.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tf_keras

import keras_esq as esq

EPS = 0.1


def main(out: Path = Path("keras-esq-quickstart"), epochs: int = 15) -> None:
    """Train, quantize, train on, attack, convert; write the .tflite to `out`."""
    digits = esq.data.load("digits")
    train = (digits.x_train, digits.y_train)
    attack = esq.attacks.PGD(eps=EPS, step_size=EPS / 4, steps=7)
    loss = "sparse_categorical_crossentropy"

    # 1. A float network, trained on adversarial images: the source of a robust low-bit one.
    robust_float = esq.ErrorSilencedModel(esq.models.small_cnn(width=16), attack=attack, objective="adversarial")
    robust_float.compile(tf_keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    robust_float.fit(*train, batch_size=64, epochs=epochs, verbose=2)

    # 2. The same network with ternary weights, trained on with the logits of x and x_adv paired.
    robust = esq.ErrorSilencedModel(esq.quantize_model(robust_float, weights="ternary"), attack=attack)
    robust.compile(tf_keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    robust.fit(*train, batch_size=64, epochs=epochs, callbacks=[esq.QuantizationRatio("exponential")], verbose=2)
    print(esq.summary(robust))

    # 3. Its accuracy under attacks stronger than those of the training.
    pgd = esq.attacks.PGD(eps=EPS, step_size=EPS / 8, steps=40, restarts=3)
    report = esq.evaluate_robustness(robust, digits.x_test, digits.y_test, attacks=[esq.attacks.FGSM(eps=EPS), pgd])
    print(report.table())

    # 4. A file with int8 activations, checked against the model before it is written, and run as a phone would.
    out.mkdir(exist_ok=True)
    file = esq.convert(robust, out / "ternary.tflite", target="phone", calibration=digits.x_train[:200])
    accuracy = np.mean(file.predict(digits.x_test).argmax(axis=1) == digits.y_test)
    print(f"{file.path}: {file.num_bytes:,} bytes, accuracy {accuracy:.3f} in {file.runtime}")


if __name__ == "__main__":
    main()
