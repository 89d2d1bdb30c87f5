"""The command line and the demo behind it."""

import dataclasses

import numpy as np
import pytest

from keras_esq import cli


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["inspect", "--help"], ["--version"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    assert "keras-esq" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["inspect"], ["demo", "--seed", "x"]])
def test_wrong_arguments_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


def test_errors_are_one_line_and_exit_with_1(tmp_path, capsys):
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(b"no model")
    for path in (foreign, tmp_path / "nothing.tflite"):
        assert cli.main(["inspect", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("keras-esq: ")
        assert str(path) in captured.err
        assert captured.out == ""
    blocked = tmp_path / "file"
    blocked.touch()
    assert cli.main(["demo", "--out", str(blocked)]) == 1
    assert cli.main(["demo", "--seed", "-1", "--out", str(tmp_path / "x")]) == 1


def test_demo_goes_the_whole_way(tmp_path, capsys, monkeypatch):
    """The demo with small networks and few epochs; `make slow` runs it as it is."""
    from keras_esq import demo

    quick = {
        name: dataclasses.replace(attack, steps=5, restarts=1)
        for name, attack in demo.TEST_ATTACKS.items()
        if name != "FGSM"
    }
    monkeypatch.setattr(demo, "STEPS", tuple(dataclasses.replace(step, epochs=2) for step in demo.STEPS))
    monkeypatch.setattr(demo, "TEST_ATTACKS", {"FGSM": demo.TEST_ATTACKS["FGSM"], **quick})
    monkeypatch.setattr(demo, "WIDTH", 4)
    monkeypatch.setattr(demo, "RATIO", "full")
    out = tmp_path / "out"
    assert cli.main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for name in ("NF", "AF", "AVB", "AEB", "AET", "relu1", "logits", "litert", "tflm"):
        assert name in text
    for name in ("aet_phone.tflite", "aet_mcu.tflite", "aeb_phone.tflite", "aeb_mcu.tflite"):
        assert (out / name).stat().st_size > 1000
        assert cli.main(["inspect", str(out / name)]) == 0
    assert (out / "error_amplification.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "robustness.json").exists()


@pytest.mark.slow
def test_the_method_works_in_the_demo(tmp_path):
    """On several seeds: vanilla quantization destroys robustness, error-silenced quantization keeps it."""
    from keras_esq import demo

    for seed in (0, 1):
        reports = demo.run(tmp_path / str(seed), seed)["reports"]
        worst = {name: report.accuracy("worst case") for name, report in reports.items()}
        assert worst["NF"] < 0.1
        assert worst["AVB"] < 0.5 * worst["AF"]
        assert worst["AEB"] > 0.85 * worst["AF"]
        assert worst["AET"] > 0.9 * worst["AF"]
        assert all(
            np.diff([report.accuracy(k) for k in ("clean", "FGSM", "worst case")]).max() <= 0
            for report in reports.values()
        )
