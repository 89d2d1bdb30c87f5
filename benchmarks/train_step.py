"""Speed and memory of the error-silenced training step, as ratios of alternating runs.

    python benchmarks/train_step.py            # all, about 7 minutes; writes the table into benchmarks/README.md
    python benchmarks/train_step.py --only floor

Absolute times depend on the machine and on what else it does; the ratios of runs that alternate don't.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH, STEPS, EPS = 64, 10, 8 / 255
EPOCH_SECONDS = 12
README = Path(__file__).with_name("README.md")
HEADER = ("| what | median ratio | min - max | goal | absolute |", "|---|---:|---:|---:|---|")
BEGIN, END = "<!-- train_step -->", "<!-- /train_step -->"


def net():
    """About 8 million multiply-accumulates an image."""
    from keras_esq.models import small_cnn

    return small_cnn((32, 32, 3), width=28)


def batch():
    """Random images and labels."""
    rng = np.random.default_rng(0)
    return rng.random((BATCH, 32, 32, 3), dtype=np.float32), rng.integers(0, 10, BATCH).astype(np.int32)


def silenced(network, steps, **kwargs):
    """(compiled model, function that runs one step as `fit` does)."""
    import tensorflow as tf

    import keras_esq as esq
    from keras_esq._keras import keras
    from keras_esq.quantize import set_ratio

    set_ratio(network, 0.5)
    attack = esq.attacks.PGD(eps=EPS, step_size=EPS / 4, steps=steps)
    model = esq.ErrorSilencedModel(network, attack=attack, **kwargs)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    step = model.make_train_function()
    data = iter(tf.data.Dataset.from_tensors(batch()).repeat())
    return lambda: step(data)["loss"].numpy()


def floor_parts(network):
    """The two parts of the floor on the float net: forward and input gradient; a plain joint training step."""
    import tensorflow as tf

    from keras_esq._keras import keras

    x, y = map(tf.constant, batch())
    both = tf.concat([x, x], 0)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(network.trainable_variables)

    @tf.function
    def input_gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, network(x, training=False))
        return tape.gradient(loss, x)

    @tf.function
    def joint_step():
        with tf.GradientTape() as tape:
            logits = network(both, training=True)
            loss = loss_of(y, logits[:BATCH]) + tf.reduce_mean((logits[:BATCH] - logits[BATCH:]) ** 2)
        optimizer.minimize(loss, network.trainable_variables, tape=tape)
        return loss

    return lambda: input_gradient()[0, 0, 0, 0].numpy(), lambda: joint_step().numpy()


def eager_step(network):
    """A straightforward loop: tfmot's wrappers, cleverhans' own PGD, a GradientTape, no tf.function around them."""
    import tensorflow as tf
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    from keras_esq._keras import keras

    x, y = map(tf.constant, batch())
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)

    def model_fn(images):
        return network(images, training=False)

    def step():
        settings = {"clip_min": 0.0, "clip_max": 1.0, "y": y, "rand_init": 1.0}
        x_adv = projected_gradient_descent(model_fn, x, EPS, EPS / 4, STEPS, np.inf, **settings)
        with tf.GradientTape() as tape:
            logits = network(tf.concat([x, tf.stop_gradient(x_adv)], 0), training=True)
            loss = loss_of(y, logits[:BATCH]) + tf.reduce_mean((logits[:BATCH] - logits[BATCH:]) ** 2)
        optimizer.minimize(loss, network.trainable_variables, tape=tape)
        return float(loss)

    return step


def seconds(function) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_floor(rounds: int):
    """Ratio of the step to its floor, and of the eager loop to the step."""
    import keras_esq as esq

    step = silenced(esq.quantize_model(net(), "ternary"), STEPS)
    gradient, joint = floor_parts(net())
    eager = eager_step(esq.quantize_model(net(), "ternary"))
    narrow = silenced(esq.quantize_model(net(), "ternary"), STEPS, attack_dtype="bfloat16")
    for function in (step, gradient, joint, eager, narrow):
        for _ in range(3):
            function()
    over_floor, over_step, narrow_over_floor, absolute = [], [], [], []
    for number in range(rounds):
        ours = [seconds(step)]
        floor = STEPS * statistics.median(seconds(gradient) for _ in range(STEPS)) + seconds(joint)
        ours.append(seconds(step))
        over_floor.append(statistics.mean(ours) / floor)
        narrow_over_floor.append(seconds(narrow) / floor)
        if number % 4 == 0:
            over_step.append(seconds(eager) / statistics.mean(ours))
        absolute.append((statistics.mean(ours), floor))
    ours, floor = (1000 * statistics.median(column) for column in zip(*absolute, strict=True))
    return [
        ("step with PGD-10 / its floor", over_floor, "<= 1.10", f"{ours:.0f} ms / {floor:.0f} ms"),
        ("step with PGD-10, attack_dtype bfloat16 / the float32 floor", narrow_over_floor, "<= 0.75", ""),
        ("tfmot + eager cleverhans loop / step with PGD-10", over_step, "> 1", ""),
    ]


def measure_tracing(rounds: int):
    """Ratio of the first step with PGD-20 on a ResNet-20 to the first step of a plain fit."""
    import keras_esq as esq
    from keras_esq._keras import keras
    from keras_esq.models import resnet_cifar

    x, y = batch()
    whole, tracing, absolute = [], [], []
    for _ in range(rounds):
        plain = resnet_cifar(20)
        plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        low_bit = esq.quantize_model(resnet_cifar(20), "ternary")
        ours = esq.ErrorSilencedModel(low_bit, attack=esq.attacks.PGD(steps=20))
        ours.compile("sgd", "sparse_categorical_crossentropy")
        theirs = seconds(lambda: plain.fit(x, y, batch_size=BATCH, verbose=0))  # noqa: B023
        first = seconds(lambda: ours.fit(x, y, batch_size=BATCH, verbose=0))  # noqa: B023
        # The steps themselves are not tracing: 20 attack steps cost what they cost.
        second_plain = seconds(lambda: plain.fit(x, y, batch_size=BATCH, verbose=0))  # noqa: B023
        second = seconds(lambda: ours.fit(x, y, batch_size=BATCH, verbose=0))  # noqa: B023
        whole.append(first / theirs)
        tracing.append((first - second) / (theirs - second_plain))
        absolute.append((first, theirs, first - second, theirs - second_plain))
    first, theirs, traced, traced_plain = (statistics.median(column) for column in zip(*absolute, strict=True))
    notes = f"{traced:.1f} s / {traced_plain:.1f} s", f"{first:.1f} s / {theirs:.1f} s, of which 20 attack steps run"
    what = "with PGD-20 / of a plain fit, ResNet-20"
    return [
        (f"tracing in the first step {what}", tracing, "", notes[0]),
        (f"the whole first step {what}", whole, "<= 3", notes[1]),
    ]


def peak_memory(steps: int) -> float:
    """Peak RSS in MB of a process that trains with PGD of so many steps."""
    script = f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; import train_step; train_step.train({steps})"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def train(steps: int) -> None:
    """Train ten steps and print the peak RSS in MB."""
    import keras_esq as esq

    step = silenced(esq.quantize_model(net(), "ternary"), steps)
    for _ in range(10):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_memory(rounds: int):
    """Ratio of the peak memory with 40 attack steps to that with 5."""
    pairs = [(peak_memory(40), peak_memory(5)) for _ in range(rounds)]
    many, few = (statistics.median(column) for column in zip(*pairs, strict=True))
    note = f"{many:.0f} MB / {few:.0f} MB"
    return [("peak memory with PGD-40 / PGD-5", [a / b for a, b in pairs], "<= 1.05", note)]


def measure_epochs(rounds: int):
    """Ratio of an epoch's seconds with tf.data's tuner, whose sleep its end waits for, to those without."""
    from unittest import mock

    import keras_esq as esq
    from keras_esq.models import small_cnn
    from keras_esq.training import order

    x, y = batch()
    attack = esq.attacks.PGD(eps=EPS, step_size=EPS / 4, steps=1)
    model = esq.ErrorSilencedModel(esq.quantize_model(small_cnn((32, 32, 3), width=4), "ternary"), attack=attack)
    model.compile("sgd", "sparse_categorical_crossentropy")

    def epoch(batches: int, tuned: bool) -> float:
        images, labels = np.tile(x, (batches, 1, 1, 1)), np.tile(y, batches)
        kept = (lambda dataset: dataset) if tuned else order.untuned
        with mock.patch.object(order, "untuned", kept):
            return seconds(lambda: model.fit(images, labels, batch_size=BATCH, verbose=0))

    epoch(20, False)
    batches = round(100 * EPOCH_SECONDS / epoch(100, False))
    pairs = [(epoch(batches, True), epoch(batches, False)) for _ in range(rounds)]
    tuned, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    what = f"an epoch of about {EPOCH_SECONDS} s on arrays, tuned by tf.data / as `fit` streams them"
    return [(what, [a / b for a, b in pairs], "> 1", f"{tuned:.1f} s / {ours:.1f} s")]


def step_seconds(onednn: int) -> float:
    """Median seconds of a step, in a process whose TensorFlow has its oneDNN kernels on or off."""
    script = f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; import train_step; train_step.time_steps()"
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": str(onednn)}
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    return float(result.stdout.split()[-1])


def time_steps() -> None:
    """Run ten steps and print the median of their seconds."""
    import keras_esq as esq

    step = silenced(esq.quantize_model(net(), "ternary"), STEPS)
    step()
    print(statistics.median(seconds(step) for _ in range(10)))


def measure_onednn(rounds: int):
    """Ratio of a step's seconds with TensorFlow's oneDNN kernels to those without; which are on depends on the CPU."""
    pairs = [(step_seconds(1), step_seconds(0)) for _ in range(rounds)]
    on, off = (statistics.median(column) for column in zip(*pairs, strict=True))
    note = f"{1000 * on:.0f} ms / {1000 * off:.0f} ms"
    return [("step with PGD-10, TF_ENABLE_ONEDNN_OPTS=1 / =0", [a / b for a, b in pairs], "", note)]


MEASUREMENTS = {
    "floor": (measure_floor, 40),
    "tracing": (measure_tracing, 3),
    "memory": (measure_memory, 3),
    "epochs": (measure_epochs, 3),
    "onednn": (measure_onednn, 3),
}


def main() -> None:
    """Measure, print, and write the rows into the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASUREMENTS, help="one measurement; the table's other rows stay")
    arguments = parser.parse_args()
    rows = {}
    for name, (measure, rounds) in MEASUREMENTS.items():
        if arguments.only in (None, name):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            for what, ratios, goal, note in measure(rounds):
                spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
                rows[what] = f"| {what} | {statistics.median(ratios):.2f} | {spread} | {goal} | {note} |"
    print("\n".join([*HEADER, *rows.values()]))
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    kept = {line.split("|")[1].strip(): line for line in table.split("\n") if line.startswith("|")}
    kept = {what: line for what, line in kept.items() if line not in HEADER} if arguments.only else {}
    table = "\n".join([*HEADER, *(kept | rows).values()])
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
