"""Compilers of NPUs: run in a process of their own, their figures attached, their failures told."""

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import ACCELERATORS, CompilerError, compilers, convert, inspect, vela
from keras_esq.quantize import quantize_model
from keras_esq.runtime import Flatbuffer
from keras_esq.runtime.flatbuffer_format import op_name, parse

L = keras.layers
X = np.random.default_rng(0).random((12, 12, 12, 3), np.float32)
needs_vela = pytest.mark.skipif(vela.importlib.util.find_spec("ethosu") is None, reason="no ethos-u-vela here")


def network(weights="ternary"):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(32, 3, activation="relu"), L.Conv2D(64, 3, activation="relu"), L.Flatten(), L.Dense(5)]
    return quantize_model(keras.Sequential([keras.Input((12, 12, 3)), *layers]), weights)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


# ---- Ethos-U


@needs_vela
@pytest.mark.parametrize(("weights", "most"), [("ternary", 2.4), ("binary", 2.0)])
def test_vela_compiles_and_its_figures_are_attached(weights, most, path):
    file = convert(network(weights), path, target="ethos-u", calibration=X, accelerator="ethos-u55-128")
    report = file.compiler_report
    assert report.accelerator == "ethos-u55-128"
    assert report.cycles > 1000
    assert report.milliseconds > 0
    assert report.sram_bytes > 12 * 12 * 3
    weights_bits = inspect(path).weights * report.bits_per_weight
    assert report.flash_bytes > weights_bits / 8
    assert report.dram_bytes == 0
    assert 1 <= report.bits_per_weight < most
    assert report.macs >= 100 * 32 * 27 + 64 * 64 * 288
    assert report.cpu_ops == ()
    compiled = parse(report.compiled.read_bytes())
    assert [op_name(compiled, operator) for operator in compiled.subgraphs[0].operators] == ["ethos-u"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.tflite", "model_vela.tflite"]
    # The plain file still runs, and says what it was compiled to.
    assert file.predict(X).shape == (12, 5)
    assert Flatbuffer(path).metadata["ethos_u"] == json.loads(json.dumps(report.to_dict()))
    line = next(line for line in str(inspect(path)).splitlines() if "Vela" in line)
    assert f"{report.cycles:,} cycles" in line
    assert f"{report.cycles:,} cycles" in str(report)
    assert "all on the NPU" in str(report)


@needs_vela
def test_what_the_npu_lacks_is_left_to_the_cpu(path):
    x = keras.Input((12, 12, 3))
    y = L.Conv2D(8, 3, activation="elu")(x)
    model = keras.Model(x, L.Dense(5)(L.Flatten()(y)))
    report = convert(model, path, target="ethos-u", calibration=X, accelerator="ethos-u65-256").compiler_report
    assert report.dram_bytes > 0
    assert set(report.cpu_ops) <= {"ELU", "QUANTIZE", "DEQUANTIZE"}


@needs_vela
def test_accelerators_are_velas():
    """The list is written down here, as Vela is optional: it must not drift."""
    from ethosu.vela.architecture_features import Accelerator

    assert set(ACCELERATORS) == set(Accelerator.member_list())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "ethos-u", "accelerator": "ethos-u55-127"}, "one of .*'ethos-u55-128'.*Did you mean 'ethos-u55-12"),
        ({"target": "ethos-u", "accelerator": "Ethos_U65_512"}, "Did you mean 'ethos-u65-512'"),
        ({"target": "ethos-u", "accelerator": 3}, "one of"),
        ({"target": "mcu", "accelerator": "ethos-u55-128"}, "target='ethos-u' only"),
    ],
)
def test_wrong_accelerators(options, message, path):
    with pytest.raises(ValueError, match=message):
        convert(network(), path, calibration=X, **options)
    assert list(path.parent.iterdir()) == []


def test_vela_is_needed_only_for_an_accelerator(path, monkeypatch):
    find = vela.importlib.util.find_spec
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None if name == "ethosu" else find(name))
    assert convert(network(), path, target="ethos-u", calibration=X).compiler_report is None
    path.unlink()
    with pytest.raises(ImportError, match=r"pip install keras-esq\[ethos-u\]"):
        convert(network(), path, target="ethos-u", calibration=X, accelerator="ethos-u55-128")
    assert list(path.parent.iterdir()) == []


def play_vela(monkeypatch, tmp_path, script):
    """Let a script stand for Vela."""
    (tmp_path / "fake_vela.py").write_text(script)
    monkeypatch.setattr(vela, "_MODULE", "fake_vela")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(vela, "check_accelerator", lambda *_: None)
    monkeypatch.setattr(sys.modules["keras_esq.conversion.convert"], "check_accelerator", lambda *_: None)


FAILURES = [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
    ("import sys; print('Error: no such operator'); sys.exit(3)", "ended with code 3: Error: no such operator"),
    ("import time; time.sleep(60)", "did not finish within 1 s"),
    ("", "wrote 0 and 0"),
]


@pytest.mark.parametrize(("script", "message"), FAILURES)
def test_velas_failures_leave_no_file(script, message, tmp_path, monkeypatch):
    play_vela(monkeypatch, tmp_path, script)
    if "sleep" in script:
        monkeypatch.setattr(compilers, "TIMEOUT_SECONDS", 1.0)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(b"what was there")
    with pytest.raises(CompilerError, match=f"{message}.*No file was written"):
        convert(network(), folder / "model.tflite", target="ethos-u", calibration=X, accelerator="ethos-u55-128")
    assert (folder / "model.tflite").read_bytes() == b"what was there"
    assert len(list(folder.iterdir())) == 1


def test_vela_is_never_handed_int4(path, monkeypatch):
    monkeypatch.setattr(vela, "run_compiler", lambda *_: pytest.fail("Vela saw INT4"))
    for weights in ("int4", "auto"):
        convert(network(), path, target="phone", weights=weights, calibration=X)
        with pytest.raises(ValueError, match=r"type INT[24].*target='ethos-u'"):
            vela.compile_for_ethos_u(path.read_bytes(), "ethos-u55-128")


# ---- Edge TPU

PLAYED = """#!{python}
import sys
from pathlib import Path
arguments = sys.argv[1:]
out, source = Path(arguments[arguments.index("--out_dir") + 1]), Path(arguments[-1])
print("Edge TPU Compiler version 16.0")
{body}
"""
COMPILES = """
(out / "model_edgetpu.tflite").write_bytes(source.read_bytes() + b"compiled")
(out / "model_edgetpu.log").write_text("Operator CONV_2D Mapped to Edge TPU")
"""


@pytest.fixture
def play_edgetpu(tmp_path, monkeypatch):
    """Put a script in the place of the compiler, which no package index has, on the PATH."""

    def play(body):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "edgetpu_compiler"
        program.write_text(PLAYED.format(python=sys.executable, body=body))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        where = tmp_path / "out"
        where.mkdir(exist_ok=True)
        return where / "model.tflite"

    return play


def test_the_edgetpu_compilers_log_is_attached(play_edgetpu):
    path = play_edgetpu(COMPILES)
    report = convert(network(), path, target="edgetpu", calibration=X).compiler_report
    assert report.compiled == path.with_name("model_edgetpu.tflite")
    assert report.compiled.read_bytes() == path.read_bytes() + b"compiled"
    assert report.log.startswith("Edge TPU Compiler version 16.0")
    assert "Operator CONV_2D Mapped to Edge TPU" in report.log
    assert report.log in str(report)
    assert "Only the compiler itself can tell" not in str(report)


def test_a_compiler_that_maps_nothing_writes_no_file(play_edgetpu):
    path = play_edgetpu('print("Model compiled but not all operations are supported")')
    report = convert(network(), path, target="edgetpu", calibration=X).compiler_report
    assert report.compiled is None
    assert "not all operations" in report.log
    assert [p.name for p in path.parent.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('Internal compiler error. Aborting!')", "ended with code 1: .*Internal compiler error"),
        ("import os; os.abort()", "ended by signal 6"),
        ("import time; time.sleep(60)", "did not finish within 1 s"),
    ],
)
def test_the_edgetpu_compilers_failures(body, message, play_edgetpu, monkeypatch):
    path = play_edgetpu(body)
    if "sleep" in body:
        monkeypatch.setattr(compilers, "TIMEOUT_SECONDS", 1.0)
    with pytest.raises(CompilerError, match=f"(?s){message}.*No file was written.*off the PATH"):
        convert(network(), path, target="edgetpu", calibration=X)
    assert list(path.parent.iterdir()) == []


def test_without_compiler_the_check_is_static(path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    report = convert(network(), path, target="edgetpu", calibration=X).compiler_report
    assert report.log is None
    assert report.compiled is None
    assert "Static check" in str(report)
    assert "Only the compiler itself can tell" in str(report)
