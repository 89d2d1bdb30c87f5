"""A training that was stopped goes on to the same weights, bit for bit."""

import contextlib
import functools
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq import cli
from keras_esq._keras import keras
from keras_esq.attacks import PGD
from keras_esq.cli import train
from keras_esq.training import OBJECTIVES, Backup, WeightAverage

N, EPOCHS = 100, 3


def make(width=2, objective="pairing"):
    keras.utils.set_random_seed(3)
    low_bit = esq.quantize_model(esq.models.small_cnn(width=width), "ternary")
    attack = PGD(eps=0.15, step_size=0.05, steps=1)
    model = esq.ErrorSilencedModel(low_bit, attack=attack, objective=objective, seed=7)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 12)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Stop(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.left = batch

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def fit(model, digits, *callbacks, epochs=EPOCHS, **kwargs):
    callbacks = [esq.QuantizationRatio("uniform"), *callbacks]
    x, y = digits.x_train[:N], digits.y_train[:N]
    return model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


def state(model):
    return [np.asarray(v) for v in [*model.variables, *model.optimizer.variables]]


@pytest.fixture(scope="module")
def digits():
    return esq.data.load("digits")


@pytest.fixture(scope="module")
def uninterrupted(digits):
    model = make()
    fit(model, digits)
    return state(model)


@pytest.mark.parametrize("kind", ["Backup", "Keras"])
def test_stopped_trainings_go_on_to_the_same_weights(digits, uninterrupted, tmp_path, kind):
    """Stopped in the first epoch, in a later one, and after the last."""
    for batch in (2, 6, 3, 99):
        model = make()
        backup = Backup(tmp_path) if kind == "Backup" else keras.callbacks.BackupAndRestore(str(tmp_path))
        done = {"initial_epoch": backup.restore(model)} if kind == "Backup" else {}
        try:
            fit(model, digits, backup, Stop(batch), **done)
        except KeyboardInterrupt:
            assert batch < 99
    for one, other in zip(uninterrupted, state(model), strict=True):
        np.testing.assert_array_equal(one, other)
    if kind == "Backup":
        assert Backup(tmp_path).restore(make()) == EPOCHS


def test_a_legacy_optimizer_goes_on(digits, tmp_path):
    weights = []
    for stops in ([99], [6, 99]):
        for batch in stops:
            model, backup = make(), Backup(tmp_path / str(len(stops)))
            model.compile(keras.optimizers.legacy.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
            with contextlib.suppress(KeyboardInterrupt):
                fit(model, digits, backup, Stop(batch), epochs=2, initial_epoch=backup.restore(model))
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_under_a_strategy(digits, tmp_path):
    """What is restored are the strategy's variables; the averages of others it refuses."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make(objective="natural")
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True), "sparse_categorical_crossentropy")
    backup = Backup(tmp_path)
    fit(model, digits, backup, WeightAverage(), epochs=1, initial_epoch=backup.restore(model))
    assert backup.restore(model) == 1


def test_order_of_arrays(digits):
    """Every image once an epoch, another order in each epoch, whatever else `fit` is given."""
    from keras_esq.training.order import ordered_batches

    model = make()
    x, y, weight = np.arange(10.0), np.arange(10), np.arange(10.0) / 10
    seen = []
    for step in (0, 4):
        model.random_state.assign([7, step])
        batches = list(ordered_batches([x, y, weight], 4, model.random_state))
        assert [len(batch[0]) for batch in batches] == [4, 4, 2]
        order = np.concatenate([batch[1] for batch in batches])
        assert sorted(order) == list(range(10))
        np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), order)
        np.testing.assert_allclose(np.concatenate([batch[2] for batch in batches]), order / 10, rtol=1e-6)
        seen.append(tuple(order))
    assert seen[0] != seen[1]
    settings = [
        {"sample_weight": np.ones(N)},
        {"validation_split": 0.2},
        {"class_weight": dict.fromkeys(range(10), 1.0)},
        {"shuffle": False},
        {"steps_per_epoch": 2},
    ]
    for one in settings:
        history = fit(model, digits, epochs=1, **one).history
        assert np.isfinite(history["loss"][0])
        assert ("val_loss" in history) == ("validation_split" in one)
    with pytest.raises(ValueError, match="validation_split"):
        fit(model, digits, epochs=1, validation_split=1.5)


def test_arrays_are_streamed_without_a_tuner(digits, monkeypatch):
    """tf.data's tuner sleeps up to a minute, and what closes an iterator, as the end of an epoch does, waits for it."""
    given = {}
    for name in ("fit", "evaluate"):

        @functools.wraps(getattr(keras.Model, name))
        def spy(self, *, name=name, **arguments):
            given[name] = arguments

        monkeypatch.setattr(keras.Model, name, spy)
    model = make()
    x, y = digits.x_train[:20], digits.y_train[:20]
    model.fit(x, y, batch_size=8, validation_data=(x, y))
    model.evaluate(x, y)
    streams = [given["fit"]["x"], given["fit"]["validation_data"], given["evaluate"]["x"], esq.data.pipeline(x, y, 8)]
    assert [stream.options().autotune.enabled for stream in streams] == [False] * 4
    assert [len(batch) for batch, _ in streams[1]] == [8, 8, 4]
    # What is no array on a single device is left to Keras.
    for validation in (tf.data.Dataset.from_tensors((x, y)), None):
        model.fit(x, y, validation_data=validation)
        assert given["fit"]["validation_data"] is validation
    model.evaluate(x, y, steps=2)
    assert given["evaluate"]["x"] is x


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_figures_are_keras_own(digits, weighted):
    """Those that Keras computes from the arrays themselves, batch by batch."""
    model = make()
    x, y = digits.x_train[:30], digits.y_train[:30]
    weight = np.linspace(0, 2, 30).astype(np.float32) if weighted else None
    fit(model, digits, epochs=1)
    expected = keras.Model.evaluate(model, x, y, batch_size=7, sample_weight=weight, verbose=0, return_dict=True)
    found = model.evaluate(x, y, 7, sample_weight=weight, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)
    model.optimizer.learning_rate.assign(0.0)
    validation = (x, y, weight) if weighted else (x, y)
    rows = fit(model, digits, epochs=1, validation_data=validation, validation_batch_size=7).history
    now = keras.Model.evaluate(model, x, y, batch_size=7, sample_weight=weight, verbose=0, return_dict=True)
    assert {key: rows[f"val_{key}"][0] for key in now} == pytest.approx(now, rel=1e-5)
    with pytest.raises(ValueError, match="finite"):
        fit(model, digits, epochs=1, validation_data=(np.full_like(x, np.nan), y))
    with pytest.raises(ValueError, match="30, 30, 29"):
        model.evaluate(x, y, sample_weight=np.ones(29), verbose=0)


def test_validation_split_is_keras_own(digits):
    """The last images, and the others train."""
    plain = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    x, y = digits.x_train[:50], digits.y_train[:50]
    model = esq.ErrorSilencedModel(plain, objective="natural")
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    split = model.fit(x, y, validation_split=0.3, verbose=0).history
    assert split["val_loss"][0] == pytest.approx(model.evaluate(x[35:], y[35:], verbose=0), rel=1e-5)
    # The mean over batches of 32 and 3, weighted, is that over the images.
    assert split["loss"][0] == pytest.approx(model.evaluate(x[:35], y[:35], verbose=0), rel=1e-4)


def test_unusable_checkpoints(digits, tmp_path):
    model = make()
    fit(model, digits, Backup(tmp_path), epochs=1)
    with pytest.raises(ValueError, match=r"another model.*conv1.*another folder"):
        Backup(tmp_path).restore(make(width=3))
    uncompiled = esq.ErrorSilencedModel(esq.models.small_cnn(width=2))
    with pytest.raises(ValueError, match="compile"):
        Backup(tmp_path).restore(uncompiled)
    for file in tmp_path.glob("epoch-*.data*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OSError, match="Delete the folder"):
        Backup(tmp_path).restore(make())
    with pytest.raises(ValueError, match="another name"):
        Backup(tmp_path / "run[1]")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match="file"):
        Backup(blocked)


def test_a_full_disk_leaves_the_last_good_checkpoint(digits, tmp_path):
    fit(make(), digits, Backup(tmp_path), epochs=1)
    model = make()
    backup = Backup(tmp_path)
    assert backup.restore(model) == 1
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, old[1]))
        with pytest.raises(OSError, match="room"):
            fit(model, digits, backup, initial_epoch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert Backup(tmp_path).restore(make()) == 1


# `keras-esq train`.

TRAIN = [
    "train",
    "small_cnn",
    "--epochs",
    "2",
    "--steps",
    "1",
    "--eps",
    "0.15",
    "--batch-size",
    "300",
    "--int8",
    "conv1",
    "log*",
]


def test_train_command(tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert cli.main([*TRAIN, "--out", str(run)]) == 0
    for name in ("model.keras", "metrics.csv", "options.json", "environment.json", "results.json"):
        assert (run / name).stat().st_size > 0, name
    assert "accuracy" in capsys.readouterr().out
    assert cli.main([*TRAIN, "--out", str(run)]) == 1
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--seed", "1", "--out", str(run), "--resume"]) == 1
    assert "seed" in capsys.readouterr().err
    again = str(run / "model.keras")
    bits = [row.bits for row in esq.summary(esq.load_model(again)).rows if row.weights]
    assert bits == [8, 2, 2, 8]
    before = state(esq.load_model(again))
    assert cli.main(["train", "--config", str(run / "options.json"), "--out", str(run), "--resume"]) == 0
    for one, other_one in zip(before, state(esq.load_model(again)), strict=True):
        np.testing.assert_array_equal(one, other_one)
    natural = ["--weights", "float", "--objective", "natural", "--epochs", "1", "--out", str(other)]
    assert cli.main(["train", again, *natural, "--optimizer", "sgd", "--schedule", "constant"]) == 0
    assert cli.main(["train", again, "--out", str(tmp_path / "twice")]) == 1
    assert "quantized already" in capsys.readouterr().err
    for wrong, words in ((["--weights", "float"], "--weights float"), (["--int8", "convl"], "convl")):
        assert cli.main([*TRAIN, *wrong, "--out", str(tmp_path / "wrong")]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
    student = [*TRAIN, "--epochs", "1", "--objective", "distillation", "--out"]
    assert cli.main([*student, str(tmp_path / "student"), "--teacher", str(other / "model.keras")]) == 0
    assert cli.main([*student, str(tmp_path / "alone")]) == 1
    assert "--teacher" in capsys.readouterr().err
    assert set(train.OBJECTIVES) == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["train", "smal_cnn"], "small_cnn"),
        (["train", "small_cnn", "--data", "digitz"], "digits"),
        (["train", "small_cnn", "--eps", "-1"], "eps"),
        (["train", "small_cnn", "--seed", "-1"], "seed"),
        (["train", "test_backup:for_larger_images"], "12, 12, 1)"),
        (["train", "test_backup:for_few_classes"], "4 classes"),
        (["train", "test_backup:with_two_outputs", "--weights", "float"], "one output"),
    ],
)
def test_a_mistake_leaves_the_folder_free(wrong, words, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    assert cli.main([*wrong, "--out", str(tmp_path / "run")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def for_larger_images():
    return esq.models.small_cnn((12, 12, 1))


def for_few_classes():
    return esq.models.small_cnn((8, 8, 1), classes=4)


def with_two_outputs():
    network = esq.models.small_cnn((8, 8, 1))
    return keras.Model(network.input, [network.output, 2 * network.output])


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    command = [sys.executable, "-m", "keras_esq.cli", "train", "small_cnn", "--epochs", "12", "--steps", "3"]
    command += ["--eps", "0.15", "--out"]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    duration = time.monotonic() - start
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(10):
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed"), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    assert killed > 3
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True, capture_output=True)
    one, other = (esq.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed"))
    for a, b in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(a, b)
