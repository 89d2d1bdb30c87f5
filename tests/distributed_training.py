"""Trained by test_distribute.py in processes of their own: devices and clusters are set up once a process."""

import json
import os
import sys

import numpy as np
import tensorflow as tf

EPOCHS = 4


def data():
    """Small images that a small network can learn."""
    import keras_esq as esq

    digits = esq.data.load("digits")
    return (digits.x_train[:320], digits.y_train[:320]), (digits.x_val[:64], digits.y_val[:64])


def model():
    """Without BatchNormalization, whose statistics are those of each replica."""
    import keras_esq as esq
    from keras_esq._keras import keras

    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 1))
    for number, strides in enumerate((1, 2)):
        x = keras.layers.Conv2D(6, 3, strides, activation="relu", name=f"conv{number}")(x)
    network = keras.Model(inputs, keras.layers.Dense(10, name="head")(keras.layers.Flatten()(x)))
    attack = esq.attacks.PGD(eps=0.1, step_size=0.03, steps=2)
    robust = esq.ErrorSilencedModel(
        esq.quantize_model(network, "ternary"), attack=attack, validation_attack=esq.attacks.FGSM(eps=0.1), seed=5
    )
    robust.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )  # fmt: skip
    return robust


def fit(robust, *callbacks):
    """The history of a training."""
    import keras_esq as esq

    (x, y), validation = data()
    callbacks = [esq.QuantizationRatio("uniform"), *callbacks]
    settings = {"batch_size": 64, "epochs": EPOCHS, "verbose": 0, "validation_data": validation}
    return robust.fit(x, y, callbacks=callbacks, **settings).history


def mirrored():
    """Largest difference of each figure between one device and two, and whether the partitions are the same."""
    from keras_esq.quantize import low_bit_weights

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    one = fit(model())
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        robust = model()
    two = fit(robust)
    same = []
    for weight in low_bit_weights(robust.network):
        copies = [np.asarray(copy) for copy in strategy.experimental_local_results(weight.partition)]
        same.append(len(copies) == 2 and bool(np.array_equal(*copies)))
    return {"difference": {k: float(np.abs(np.subtract(one[k], two[k])).max()) for k in one}, "same": same}


def worker(folder):
    """One of two processes; after each epoch a line is written."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from keras_esq._keras import keras

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with open(f"{folder}/epochs-{os.environ['WORKER']}", "a") as file:
                file.write(f"{epoch} {logs['loss']}\n")

    with strategy.scope():
        robust = model()
    fit(robust, keras.callbacks.BackupAndRestore(f"{folder}/backup"), Note())
    return {"weights": float(sum(np.abs(w).sum() for w in robust.get_weights()))}


if __name__ == "__main__":
    print(json.dumps(mirrored() if sys.argv[1] == "mirrored" else worker(sys.argv[2])))
