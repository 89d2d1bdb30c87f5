"""Latency of one layer by the type of its weights, in LiteRT with XNNPACK: the rule behind weights="auto".

    python benchmarks/phone_latency.py [--rounds N]

Each network is one ternary layer. Figures are microseconds, the best of many alternating rounds (what the layer takes
when nothing else runs), one thread, and the ratio to int8.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq._text import aligned
from keras_esq.conversion.lowering import lower
from keras_esq.conversion.packing import pack_kernels
from keras_esq.conversion.writing import serialize
from keras_esq.runtime import Flatbuffer
from keras_esq.runtime.flatbuffer_format import parse

L = keras.layers

# (kind, input shape, layer)
CASES = [
    ("3x3", (32, 32, 16), lambda: L.Conv2D(32, 3, padding="same")),
    ("3x3", (16, 16, 64), lambda: L.Conv2D(64, 3, padding="same")),
    ("3x3", (8, 8, 128), lambda: L.Conv2D(128, 3, padding="same")),
    ("depthwise", (32, 32, 32), lambda: L.DepthwiseConv2D(3, padding="same")),
    ("depthwise", (16, 16, 128), lambda: L.DepthwiseConv2D(3, padding="same")),
    ("1x1", (32, 32, 32), lambda: L.Conv2D(64, 1)),
    ("1x1", (16, 16, 64), lambda: L.Conv2D(128, 1)),
    ("1x1", (8, 8, 256), lambda: L.Conv2D(256, 1)),
    ("1x1", (4, 4, 512), lambda: L.Conv2D(512, 1)),
    ("dense", (256,), lambda: L.Dense(256)),
    ("dense", (1024,), lambda: L.Dense(512)),
    ("dense", (2048,), lambda: L.Dense(1024)),
]


def variants(shape: tuple[int, ...], layer) -> dict[str, Flatbuffer]:
    """The layer's files by type of weights."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    model = esq.strip(esq.quantize_model(keras.Model(x, layer(x)), "ternary"))
    samples = np.random.default_rng(0).random((8, *shape), np.float32)
    content = lower(model, samples, "int8")
    names = [one.name for one in model.layers], model.output_names[0]
    files = {"int8": Flatbuffer.from_bytes(content, "litert")}
    for weights in ("int4", "int2"):
        graph = parse(content)
        try:
            pack_kernels(graph, weights, *names)
        except ValueError:
            continue
        files[weights] = Flatbuffer.from_bytes(serialize(graph), "litert")
    return files


def microseconds(files: dict[str, Flatbuffer], shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Best time of one sample for each file."""
    sample = np.random.default_rng(1).integers(-128, 128, (1, *shape)).astype(np.int8)
    times: dict[str, list[float]] = {name: [] for name in files}
    for index in range(rounds + 2):
        for name, file in files.items():
            # The backend itself: checks of the input would hide the differences of small layers.
            backend = file._backend
            start = time.perf_counter()
            for _ in range(10):
                backend.invoke(sample)
            if index >= 2:
                times[name].append((time.perf_counter() - start) / 10)
    return {name: 1e6 * min(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300, help="alternating rounds (default: %(default)s)")
    arguments = parser.parse_args()
    rows = []
    for kind, shape, make in CASES:
        times = microseconds(variants(shape, make()), shape, arguments.rounds)
        cells = [
            f"{times[name]:.1f} ({times[name] / times['int8']:.2f})" if name in times else "-"
            for name in ("int4", "int2")
        ]
        outputs = make().compute_output_shape((None, *shape))[1:]
        rows.append([kind, "x".join(map(str, shape)), "x".join(map(str, outputs)), f"{times['int8']:.1f}", *cells])
    print(aligned([["layer", "input", "output", "int8 us", "int4 us", "int2 us"], *rows], left=3))


if __name__ == "__main__":
    main()
