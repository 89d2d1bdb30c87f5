"""Bytes, latency and conversion time of every target, ternary and binary, on three networks. See benchmarks/README.md.

    python benchmarks/conversion.py [--quick] [--markdown FILE]
    python benchmarks/conversion.py --only wrn [--target TARGET]

The packed floor is what no file of these weights can undercut: 1 bit (binary) or 2 bits (ternary) a weight and 8 bytes
a channel, for a scale and a bias. Latencies are the best of alternating runs, one thread, relative to target "ethos-u"
(plain int8) of the same network in the same runtime. A second table has what
Vela, Arm's compiler for Ethos-U NPUs, makes of target "ethos-u", with the network before quantization for comparison.
"wrn" is the conversion of a ternary WRN-28-10 (36.5 million weights) with 100 calibration samples, check included: time
and peak memory of the process.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq._text import aligned

L = keras.layers
TARGETS = ("float", "ethos-u", "phone", "phone-small", "mcu")
INT8 = "ethos-u"
ACCELERATOR = "ethos-u55-128"


def _block(x, filters, kernel=3, **kwargs):
    x = L.Conv2D(filters, kernel, padding="same", use_bias=False, **kwargs)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def conv_heavy():
    """3x3 convolutions, 335,000 weights, 32x32x3."""
    x = inputs = keras.Input((32, 32, 3))
    for filters, strides in ((32, 2), (48, 1), (64, 2), (96, 1), (128, 2), (128, 1)):
        x = _block(x, filters, strides=strides)
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)), name="conv-heavy")


def dense_heavy():
    """Mostly dense layers, 1.07 million weights, 28x28x1."""
    x = inputs = keras.Input((28, 28, 1))
    x = _block(x, 16, strides=2)
    x = L.Flatten()(_block(x, 32, strides=2))
    for units in (512, 512):
        x = L.ReLU()(L.BatchNormalization()(L.Dense(units, use_bias=False)(x)))
    return keras.Model(inputs, L.Dense(10)(x), name="dense-heavy")


def pointwise_heavy():
    """Depthwise and 1x1 convolutions, 330,000 weights, 32x32x3."""
    x = inputs = keras.Input((32, 32, 3))
    x = _block(x, 32, strides=2)
    for filters, strides in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1), (512, 1)):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)))
        x = _block(x, filters, 1)
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)), name="1x1-heavy")


NETWORKS = (conv_heavy, dense_heavy, pointwise_heavy)


def packed_floor(model) -> int:
    """Bytes of packed low-bit weights and 8 bytes a channel, of a low-bit model."""
    summary, plain = esq.summary(model), esq.strip(model)
    packed = sum(math.ceil(row.weights * row.bits / 8) for row in summary.rows)
    kernels = [layer for layer in plain.layers if isinstance(layer, (L.Conv2D, L.Dense, L.DepthwiseConv2D))]
    return packed + sum(8 * layer.output_shape[-1] for layer in kernels)


def latencies(files: dict[str, esq.Flatbuffer], x: np.ndarray, rounds: int = 100) -> dict[str, float]:
    """Best milliseconds of one sample for each file; rounds alternate between the files."""
    times: dict[str, list[float]] = {name: [] for name in files}
    for file in files.values():
        file.predict_raw(file.quantize(x[:1]))
    for _ in range(rounds):
        for name, file in files.items():
            sample = file.quantize(x[:1])
            repeats = 1 if file.runtime == "tflm" else 5
            start = time.perf_counter()
            for _ in range(repeats):
                file.predict_raw(sample)
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: 1000 * min(values) for name, values in times.items()}


def measure(make, weights: str, folder: Path, rounds: int) -> list[list[str]]:
    """One row a target."""
    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(0).random((32, *model.input_shape[1:]), np.float32)
    model(x, training=True)
    low_bit = esq.quantize_model(model, weights)
    floor, files, seconds = packed_floor(low_bit), {}, {}
    for target in TARGETS:
        start = time.perf_counter()
        files[target] = esq.convert(low_bit, folder / f"{target}.tflite", target=target, calibration=x)
        seconds[target] = time.perf_counter() - start
    phone = {t: esq.Flatbuffer(files[t].path, "litert") for t in TARGETS if t != "mcu"}
    micro = {t: esq.Flatbuffer(files[t].path, "tflm") for t in (INT8, "mcu")}
    ms = {"litert": latencies(phone, x, rounds), "tflm": latencies(micro, x, max(5, rounds // 5))}
    rows = []
    for target, file in files.items():
        speed = [
            f"{ms[runtime][target] / ms[runtime][INT8]:.2f}" if target in ms[runtime] else "-"
            for runtime in ("litert", "tflm")
        ]
        bits = f"{esq.inspect(file.path).bits_per_weight:.2f}"
        size = file.num_bytes
        ratios = [f"{files[other].num_bytes / size:.1f}" for other in ("float", INT8)]
        rows.append(
            [model.name, weights, target, f"{size:,}", bits, *ratios, f"{size / floor:.3f}", *speed,
             f"{seconds[target]:.1f}"]
        )  # fmt: skip
    return rows


def measure_vela(make, folder: Path) -> list[list[str]]:
    """What Vela estimates for a network as int8, ternary and binary: one row each."""
    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(0).random((32, *model.input_shape[1:]), np.float32)
    model(x, training=True)
    rows, first = [], None
    for weights in ("int8", "ternary", "binary"):
        network = model if weights == "int8" else esq.quantize_model(model, weights)
        path = folder / f"{weights}.tflite"
        report = esq.convert(network, path, target="ethos-u", calibration=x, accelerator=ACCELERATOR).compiler_report
        first = first or report.cycles
        bits = f"{report.bits_per_weight:.2f}"
        cycles = [f"{report.cycles:,}", f"{first / report.cycles:.2f}"]
        rows.append([model.name, weights, *cycles, bits, f"{report.flash_bytes:,}", f"{report.sram_bytes:,}"])
    return rows


def measure_wrn(target: str, folder: Path) -> str:
    """Time and memory of converting a WRN-28-10."""
    keras.utils.set_random_seed(0)
    model = esq.models.wide_resnet(depth=28, width=10)
    x = np.random.default_rng(0).random((100, *model.input_shape[1:]), np.float32)
    low_bit = esq.quantize_model(model, "ternary")
    wall, cpu = time.perf_counter(), time.process_time()
    file = esq.convert(low_bit, folder / "wrn.tflite", target=target, calibration=x)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"WRN-28-10, ternary, {target}: {file.num_bytes:,} bytes; {wall:.0f} s (processor {cpu:.0f} s); peak memory of "
        f"the process {peak:.2f} GiB\n{file.agreement.table()}"
    )


HEADER = ["network", "weights", "target", "bytes", "bits/weight", "x float", "x int8", "/ floor", "LiteRT", "TFLM", "s"]

VELA_HEADER = ["network", "weights", "cycles", "x fewer", "stored bits/weight", "flash bytes", "SRAM bytes"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: sizes hold, latencies are rough")
    parser.add_argument("--markdown", help="also put the table between the markers of this Markdown file")
    parser.add_argument("--only", choices=["wrn"], help="only time and memory of converting a WRN-28-10")
    parser.add_argument("--target", default="phone", choices=TARGETS, help="of --only wrn (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            print(measure_wrn(arguments.target, Path(folder)))
        return
    rows, vela = [], []
    with tempfile.TemporaryDirectory() as folder:
        for make in NETWORKS:
            vela += measure_vela(make, Path(folder))
            for weights in ("ternary", "binary"):
                rows += measure(make, weights, Path(folder), 10 if arguments.quick else 100)
                print(f"{make.__name__}, {weights}: done", file=sys.stderr)
    tables = {"conversion": [HEADER, *rows], "vela": [VELA_HEADER, *vela]}
    for name, lines in tables.items():
        print(aligned(lines, left=3 if name == "conversion" else 2))
        if arguments.markdown:
            _into_markdown(Path(arguments.markdown), name, lines)


def _into_markdown(path: Path, name: str, rows: list[list[str]]) -> None:
    text = path.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}")


if __name__ == "__main__":
    main()
