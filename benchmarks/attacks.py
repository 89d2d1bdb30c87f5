"""The attacks against foolbox and the Adversarial Robustness Toolbox (ART): the same verdicts, and how much sooner.

    pip install -r benchmarks/requirements-attacks.txt
    pip install --no-deps torchattacks==3.5.1      # it pins a version of requests of 2020
    python benchmarks/attacks.py               # about 15 minutes on one core; writes benchmarks/attacks.md
    python benchmarks/attacks.py --only speed  # one part: strength, torch, windows, distance, boundary, speed, file
    python benchmarks/attacks.py --only torch-cifar10 --cifar10 PATH  # without a path: Keras' cache or download

Both libraries attack the same two networks in the same process: a small CNN trained on scikit-learn's digits for a few
epochs, as it is ("natural") and with PGD images ("adversarial"). Times depend on the machine; their ratios less so.
"""

from __future__ import annotations

# ruff: noqa: E402
import os

# One core, before TensorFlow counts them.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import APGD, DDN, FAB, PGD, AutoAttack, Boundary, CarliniWagner, NAttack, Square, logits_fn
from keras_esq.attacks.norms import distances
from keras_esq.attacks.square import _windows

OUT = Path(__file__).with_suffix(".md")
EPS = {"linf": 0.1, "l2": 0.5}
EPS_CIFAR10 = {"linf": 2 / 255, "l2": 0.15}
N = 256


@functools.cache
def networks():
    """{name: trained network}, and test images with their labels."""
    digits = esq.data.load("digits")
    return trained(digits, esq.models.small_cnn, PGD(eps=EPS["linf"], step_size=0.04, steps=5), (15, 20))


def cifar10_networks(path):
    """The same of 32x32 images."""
    eps = EPS_CIFAR10["linf"]
    build = functools.partial(esq.models.small_cnn, (32, 32, 3))
    return trained(esq.data.load("cifar10", path=path), build, PGD(eps=eps, step_size=eps / 2, steps=5), (5, 5))


def trained(data, build, attack, epochs):
    """A network of natural and one of adversarial training, in as many epochs."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = {}
    for name, count in zip(("natural", "adversarial"), epochs, strict=True):
        keras.utils.set_random_seed(0)
        models[name] = network = build(width=8)
        if name == "adversarial":
            network = esq.ErrorSilencedModel(network, attack=attack, objective="adversarial")
        network.compile(keras.optimizers.Adam(3e-3), loss)
        network.fit(data.x_train, data.y_train, epochs=count, batch_size=64, verbose=0)
    return models, data.x_test[:N], data.y_test[:N]


def predict(model, x):
    """Predicted class ids."""
    return logits_fn(model)(tf.constant(x)).numpy().argmax(axis=1)


def art_classifier(model):
    """The network as ART sees it."""
    from art.estimators.classification import TensorFlowV2Classifier

    return TensorFlowV2Classifier(
        model,
        nb_classes=10,
        input_shape=(8, 8, 1),
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )


def timed(call):
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def strength(models, x, y):
    """Robust accuracy on 256 samples, ours against ART's."""
    from art.attacks.evasion import AutoAttack as ArtAutoAttack
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack

    def apgd(classifier, norm, loss):
        return AutoProjectedGradientDescent(
            classifier, norm=norm, eps=eps, eps_step=eps, max_iter=100, nb_random_init=1, batch_size=N, loss_type=loss,
            verbose=False,
        )  # fmt: skip

    rows = []
    for name, model in models.items():
        for norm, order in (("linf", np.inf), ("l2", 2)):
            eps = EPS[norm]
            ball = {"eps": eps, "norm": norm, "seed": 0}
            cases = {
                "APGD-CE": (APGD(**ball), lambda c, o=order: apgd(c, o, "cross_entropy")),
                "APGD-DLR": (APGD(loss="dlr", **ball), lambda c, o=order: apgd(c, o, "difference_logits_ratio")),
                "Square, 1000 queries": (
                    Square(query_budget=1000, **ball),
                    lambda c, o=order, e=eps: SquareAttack(
                        c, norm=o, eps=e, max_iter=1000, nb_restarts=1, batch_size=N, verbose=False
                    ),
                ),
            }
            # ART's takes minutes, so once.
            if norm == "linf" and name == "adversarial":
                cases["AutoAttack"] = (
                    AutoAttack(**ball),
                    lambda c, o=order, e=eps: ArtAutoAttack(c, norm=o, eps=e, eps_step=e, batch_size=N),
                )
            for title, (ours, theirs) in cases.items():
                if title == "AutoAttack":
                    ours.run(model, x, y)  # its trace is measured by APGD's rows
                seconds, result = timed(lambda a=ours, m=model: a.run(m, x, y, batch_size=N))
                np.random.seed(0)
                built = theirs(art_classifier(model))
                theirs_seconds, x_art = timed(lambda a=built: a.generate(x, y))
                # An image outside of the ball counts as no success.
                inside = distances(x, x_art, norm) <= eps + 1e-4
                wrong = (predict(model, x_art) != y) & inside | (predict(model, x) != y)
                rows.append([
                    name, norm, title, f"{100 * (1 - result.success.mean()):.1f}", f"{100 * (1 - wrong.mean()):.1f}",
                    f"{seconds:.1f}", f"{theirs_seconds:.1f}", f"{theirs_seconds / seconds:.1f} x",
                ])  # fmt: skip
                print(*rows[-1], flush=True)
            for extra in (FAB(**ball), APGD(loss="targeted-dlr", **ball), NAttack(query_budget=5000, **ball)):
                seconds, result = timed(lambda a=extra, m=model: a.run(m, x, y, batch_size=N))
                title = type(extra).__name__ + {"APGD": "-T", "FAB": "-T"}.get(type(extra).__name__, "")
                robust = f"{100 * (1 - result.success.mean()):.1f}"
                rows.append([name, norm, title, robust, "-", f"{seconds:.1f}", "-", "-"])
                print(*rows[-1], flush=True)
    head = ["network", "norm", "attack", "ours, % robust", "ART, % robust", "ours, s", "ART, s", "ratio"]
    return f"eps {EPS['linf']} (L-inf) and {EPS['l2']} (L2). Tracing included.\n\n" + table(head, rows)


def torch_strength(models, x, y, radii=EPS, times=True):
    """Robust accuracy on 256 samples, ours against torchattacks' on the same weights in PyTorch; and their times."""
    import torch
    import torchattacks
    from torch_networks import SmallCNN, to_numpy, to_torch

    torch.set_num_threads(1)
    rows = []
    for name, model in models.items():
        twin, labels = SmallCNN(model), torch.tensor(y.astype(np.int64))
        with torch.no_grad():
            far = np.abs(twin(to_torch(x)).numpy() - logits_fn(model)(tf.constant(x)).numpy()).max()
        if far > 1e-3:
            raise RuntimeError(f"The network in PyTorch differs by {far:g} in its logits.")
        for norm, order in (("linf", "Linf"), ("l2", "L2")):
            ball, same = {"eps": radii[norm], "norm": norm, "seed": 0}, {"eps": radii[norm], "norm": order, "seed": 0}
            cases = {
                "APGD-CE": (APGD(**ball), torchattacks.APGD(twin, steps=100, **same)),
                "APGD-T": (
                    APGD(loss="targeted-dlr", **ball), torchattacks.APGDT(twin, steps=100, n_classes=10, **same)
                ),
                "FAB-T": (FAB(**ball), torchattacks.FAB(twin, steps=100, multi_targeted=True, n_classes=10, **same)),
                "Square, 1000 queries": (
                    Square(query_budget=1000, **ball), torchattacks.Square(twin, n_queries=1000, **same)
                ),
                "the same, with their windows": (
                    Square(query_budget=1000, **ball), torchattacks.Square(twin, n_queries=1000, **same)
                ),
                "AutoAttack": (AutoAttack(**ball), torchattacks.AutoAttack(twin, n_classes=10, **same)),
            }  # fmt: skip
            for title, (ours, theirs) in cases.items():
                ours.run(model, x[:2], y[:2])  # traced before
                windows = reference_windows if "their windows" in title else _windows
                runs = []
                # The cheap ones with three seeds: one start more or less is a point.
                for seed in range(3 if theirs.attack in ("APGD", "Square") else 1):
                    theirs.seed = seed
                    attack = dataclasses.replace(ours, seed=seed)
                    with mock.patch("keras_esq.attacks.square._windows", windows):
                        seconds, result = timed(lambda a=attack, m=model: a.run(m, x, y, batch_size=N))
                    theirs_seconds, found = timed(lambda a=theirs: to_numpy(a(to_torch(x), labels)))  # noqa: B023
                    # An image outside of the ball counts as no success.
                    inside = distances(x, found, norm) <= radii[norm] + 1e-4
                    wrong = (predict(model, found) != y) & inside | (predict(model, x) != y)
                    runs.append((100 * (1 - result.success.mean()), 100 * (1 - wrong.mean()), seconds, theirs_seconds))
                mine, other, seconds, theirs_seconds = (statistics.mean(column) for column in zip(*runs, strict=True))
                rows.append([
                    name, norm, title, f"{mine:.1f}", f"{other:.1f}", f"{mine - other:+.1f}", f"{seconds:.1f}",
                    f"{theirs_seconds:.1f}",
                ])  # fmt: skip
                print(*rows[-1], flush=True)
    head = ["network", "norm", "attack", "ours, % robust", "torchattacks, % robust", "difference"]
    if times:
        head += ["ours, s", "theirs, s"]
    text = (
        f"The same weights in PyTorch (logits equal to 1e-3), eps {radii['linf']:.3g} (L-inf) and {radii['l2']:.3g} "
        "(L2). Below 0: ours is stronger.\nAPGD-CE and Square: mean of 3 seeds."
    )
    return f"{text}\n\n" + table(head, [row[: len(head)] for row in rows])


def torch_cifar10(path):
    """`torch_strength` on images of 32x32."""
    models, x, y = cifar10_networks(path)
    text = "`small_cnn` on images of 32x32x3, where a window's last place matters less than on 8x8. "
    return text + torch_strength(models, x, y, EPS_CIFAR10, times=False)


def reference_windows(n, shape, side, rng):
    """Windows as the authors' code and its descendants draw them: never in the last place, and one for all images."""
    # numpy.random.randint(0, size - side), and torch.rand scaled and rounded down, exclude their end.
    rows, columns = (np.full(n, rng.integers(0, max(size - side, 1)))[:, None] + np.arange(side) for size in shape[1:3])
    return np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]


def windows(models, x, y):
    """Why Square is stronger here than ART's: the same search with ART's windows, at 1000 queries, L-inf."""
    from art.attacks.evasion import SquareAttack

    rows, eps = [], EPS["linf"]
    for name, model in models.items():
        robust = []
        for seed in range(3):
            attack = Square(eps=eps, query_budget=1000, seed=seed)
            robust.append([1 - attack.run(model, x, y, batch_size=N).success.mean()])
            with mock.patch("keras_esq.attacks.square._windows", reference_windows):
                robust[-1].append(1 - attack.run(model, x, y, batch_size=N).success.mean())
            np.random.seed(seed)
            theirs = SquareAttack(
                art_classifier(model), norm=np.inf, eps=eps, max_iter=1000, nb_restarts=1, batch_size=N, verbose=False
            )
            robust[-1].append((predict(model, theirs.generate(x, y)) == y).mean())
        rows.append([name, *(f"{100 * value:.1f}" for value in np.mean(robust, axis=0))])
        print(*rows[-1], flush=True)
    head = ["network", "ours, % robust", "ours with ART's windows", "ART"]
    return (
        "The paper draws a window's corner from 0 to size - side; ART leaves the last place out: the last row and "
        "column do not change after the first stripes. Mean of 3 seeds.\n\n" + table(head, rows)
    )


def distance(models, x, y):
    """Median L2 of DDN and C&W, ours against foolbox's."""
    import foolbox

    rows = []
    for name, model in models.items():
        right = predict(model, x) == y
        images, labels = x[right][:128], y[right][:128]
        wrapped = foolbox.TensorFlowModel(logits_fn(model), bounds=(0, 1))
        cw = {"steps": 300, "binary_search_steps": 6, "initial_const": 1.0}
        cases = {
            "DDN, 100 steps": (DDN(seed=0), foolbox.attacks.DDNAttack(steps=100)),
            "C&W, 6 x 300 steps": (
                CarliniWagner(learning_rate=0.01, seed=0, **cw),
                foolbox.attacks.L2CarliniWagnerAttack(stepsize=0.01, **cw),
            ),
        }
        for title, (ours, theirs) in cases.items():
            ours.run(model, images, labels)
            arguments = (wrapped, tf.constant(images), tf.constant(labels, tf.int32))
            seconds, result = timed(lambda a=ours, m=model, i=images, z=labels: a.run(m, i, z))
            their_seconds, answer = timed(lambda a=theirs, w=arguments: a(*w, epsilons=None))
            mine, other = (np.median(distances(images, adv, "l2")) for adv in (result.x_adv, answer[1].numpy()))
            rows.append([
                name, title, f"{mine:.4f}", f"{other:.4f}", f"{100 * (mine / other - 1):+.1f} %", f"{seconds:.2f}",
                f"{their_seconds:.2f}", f"{their_seconds / seconds:.1f} x",
            ])  # fmt: skip
            print(*rows[-1], flush=True)
    head = ["network", "attack", "ours, median L2", "foolbox", "difference", "ours, s", "foolbox, s", "ratio"]
    return "128 samples that are right; compiled before.\n\n" + table(head, rows)


def boundary(models, x, y):
    """Median distance of the boundary attack at the queries that ART's used."""
    from art.attacks.evasion import BoundaryAttack
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    rows = []
    for name, model in models.items():
        right = predict(model, x) == y
        images, labels = x[right][:32], y[right][:32]
        for iterations in (20, 80):
            asked = 0
            logits = logits_fn(model)

            def ask(z, logits=logits):
                nonlocal asked
                asked += len(z)
                return logits(tf.constant(z, tf.float32)).numpy()

            black_box = BlackBoxClassifierNeuralNetwork(
                ask, (8, 8, 1), 10, channels_first=False, clip_values=(0.0, 1.0)
            )
            np.random.seed(0)
            theirs = BoundaryAttack(black_box, targeted=False, max_iter=iterations, verbose=False)
            x_art = theirs.generate(images, np.eye(10)[labels])
            # ART's initial search and its final check of all images are left out: its walk alone.
            budget = asked // len(images)
            result = Boundary(query_budget=budget, seed=0).run(model, images, labels)
            mine, other = (np.median(distances(images, adv, "l2")) for adv in (result.x_adv, x_art))
            rows.append([name, budget, f"{mine:.4f}", f"{other:.4f}", f"{100 * (mine / other - 1):+.1f} %"])
            print(*rows[-1], flush=True)
    head = ["network", "queries a sample", "ours, median L2", "ART", "difference"]
    return "32 samples that are right.\n\n" + table(head, rows)


def speed():
    """APGD-100 against its floor: 100 times forward and input gradient."""
    keras.utils.set_random_seed(0)
    model = esq.models.small_cnn((32, 32, 3), width=16)
    x = np.random.default_rng(0).random((64, 32, 32, 3), dtype=np.float32)
    y = predict(model, x)
    logits = logits_fn(model)

    @tf.function
    def floor(images, labels):
        def body(_, z):
            with tf.GradientTape() as tape:
                tape.watch(z)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(z))
            # Used, so that nothing is optimized away.
            return _ + 1, z + 1e-9 * tape.gradient(loss, z)

        return tf.while_loop(lambda i, _: i < 100, body, (0, images), parallel_iterations=1)[1]

    # So small an eps fools none of them: no sample leaves early.
    attack = APGD(eps=1e-5, seed=0)
    calls = (lambda: floor(tf.constant(x), tf.constant(y, tf.int32)).numpy(), lambda: attack.run(model, x, y))
    for call in calls:
        call()
    ratios, floors = [], []
    for _ in range(5):
        base, ours = (timed(call)[0] for call in calls)
        ratios.append(ours / base)
        floors.append(base)
    ratio = statistics.median(ratios)
    print("APGD-100 / floor", round(ratio, 3), flush=True)
    return (
        f"APGD-100, `small_cnn` of width 16 on 64 images of 32x32x3, none of which falls: **{ratio:.2f} x** the floor "
        f"of 100 forward passes and input gradients in a plain while loop ({statistics.median(floors):.2f} s); median "
        "of 5 alternating runs.\n"
    )


def file(_, x, y):
    """How much of a black-box attack's time on an int8 file is spent inside the interpreter."""
    from keras_esq.demo import WIDTH

    digits = esq.data.load("digits")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width in (WIDTH // 2, WIDTH):
            keras.utils.set_random_seed(0)
            path = Path(folder) / "model.tflite"
            network = esq.models.small_cnn(width=width)
            network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            network.fit(digits.x_train, digits.y_train, epochs=10, batch_size=64, verbose=0)
            deployed = esq.convert(
                network, path, target="phone", weights="int8", calibration=digits.x_train[:200]
            )  # fmt: skip
            for attack in (
                Square(eps=EPS["linf"], query_budget=2000, seed=0),
                Square(eps=EPS["l2"], norm="l2", query_budget=2000, seed=0),
                Boundary(query_budget=1000, seed=0),
                NAttack(eps=EPS["linf"], query_budget=2000, seed=0),
            ):
                rows.append([width, *_asked(deployed, attack, x, y)])
                print(*rows[-1], flush=True)
    head = ["width", "attack", "% robust", "queries a sample", "microseconds a query", "share inside predict"]
    text = (
        f"`small_cnn` as an int8 file ({deployed.runtime}), {N} samples at once. The demo's files have width {WIDTH}."
    )
    return f"{text}\n\n" + table(head, rows)


def _asked(deployed, attack, x, y):
    """What an attack on a file asked, and its share of time inside `predict`."""
    inside = 0.0

    def ask(z):
        nonlocal inside
        seconds, scores = timed(lambda: deployed.predict(z))
        inside += seconds
        return scores

    total, result = timed(lambda: attack.run(ask, x, y, batch_size=N))
    name = f"{type(attack).__name__} {getattr(attack, 'norm', 'l2')}"
    queries = result.queries
    robust = f"{100 * (1 - result.success.mean()):.1f}"
    return name, robust, f"{queries.mean():.0f}", f"{1e6 * inside / queries.sum():.1f}", f"{100 * inside / total:.0f} %"


PARTS = {
    "strength": ("Robust accuracy against ART's", strength),
    "torch": ("Robust accuracy against torchattacks'", torch_strength),
    "torch-cifar10": ("Robust accuracy against torchattacks' on CIFAR-10", torch_cifar10),
    "windows": ("Square against ART's", windows),
    "distance": ("Distances against foolbox's", distance),
    "boundary": ("Boundary attack against ART's at equal queries", boundary),
    "speed": ("APGD against its floor", speed),
    "file": ("A deployed file under attack", file),
}


def main():
    """Run the parts asked for; replace their sections of attacks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in PARTS if name != "torch-cifar10"]  # which needs data that are not in a package
    parser.add_argument("--only", choices=PARTS, nargs="+", default=usual)
    parser.add_argument("--cifar10", help="CIFAR-10 as .npz or its own files")
    arguments = parser.parse_args()
    old = OUT.read_text() if OUT.exists() else ""
    sections = dict(part.split("\n", 1) for part in old.split("\n## ")[1:])
    head = "# The attacks, compared\n\n    python benchmarks/attacks.py\n"
    head += (
        "    python benchmarks/attacks.py --only torch-cifar10 --cifar10 PATH\n\nWritten by that script, on one core.\n"
    )
    for name in arguments.only:
        title, run = PARTS[name]
        inputs = (arguments.cifar10,) if name == "torch-cifar10" else () if name == "speed" else networks()
        sections[title] = "\n" + run(*inputs)
        # After each part: the long ones may be stopped.
        body = [f"## {title}\n{sections[title].rstrip()}\n" for title, _ in PARTS.values() if title in sections]
        OUT.write_text("\n".join([head, *body]))


if __name__ == "__main__":
    main()
