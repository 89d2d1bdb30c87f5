"""What README and examples show must run."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from nets import tiny

ROOT = Path(__file__).parents[1]


def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert "epochs=30" in code
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 8, 8, 3), dtype=np.float32), np.arange(12) % 3
    names = {"model": tiny(), "x": x, "y": y, "x_val": x, "y_val": y, "x_test": x, "y_test": y}
    monkeypatch.chdir(tmp_path)
    exec(code.replace("epochs=30", "epochs=1, verbose=0").replace("steps=10", "steps=2"), names)
    assert "worst case" in capsys.readouterr().out
    assert (tmp_path / "model.tflite").stat().st_size == names["file"].num_bytes


@pytest.mark.slow
def test_the_quickstart_works(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "examples/quickstart.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    quickstart.main(tmp_path)
    assert "ternary.tflite" in capsys.readouterr().out


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
