"""Install, import and quick tests on several versions of Python (and TensorFlow); the README's table.

    make matrix                                              # the versions on the PATH
    make matrix PYTHONS="/opt/python3.10 /opt/python3.13"
    .venv/bin/python .ci/matrix.py --tensorflow 2.20.0 ...   # the tests with another TensorFlow; the table stays

Works on a copy of the last commit in .matrix/, a virtual environment each, which stay for the next time. Takes about a
quarter of an hour a version. The table has a row for every version that was ever measured here.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".matrix"
BEGIN, END = "<!-- versions -->", "<!-- /versions -->"
PACKAGES = ("tensorflow", "tf-keras", "numpy", "tflite-runtime", "ai-edge-litert")
FACTS = """
import importlib.metadata as m, json, platform, sys
import keras_esq as esq
versions = {}
for name in %r:
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: versions[name] = "-"
print(json.dumps({"python": platform.python_version(), "runtimes": list(esq.available_runtimes()), **versions}))
"""


def run(command: list[str], folder: Path, log: Path) -> bool:
    """Run a command with its output in `log`; whether it succeeded."""
    with log.open("a") as out:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        return subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, check=False).returncode == 0


def checkout(folder: Path) -> str:
    """The last commit's files in `folder`; returns the commit."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tree = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=tree, check=True)
    return said(["git", "rev-parse", "--short", "HEAD"], ROOT)


def said(command: list[str], folder: Path) -> str:
    """What a command printed; CalledProcessError if it fails."""
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def measure(python: str, tensorflow: str | None, selection: list[str]) -> dict[str, str]:
    """One row: what was installed, and the tests' last line."""
    version = said([python, "-c", "import platform; print(platform.python_version())"], ROOT)
    name = f"{version}-tf{tensorflow}" if tensorflow else version
    place, log = WORK / name, WORK / f"{name}.log"
    place.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    row = {"name": name, "commit": checkout(place / "source"), "python": version, "result": "", "date": ""}
    inside = str(place / "venv" / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "--quiet"]
    if not Path(inside).exists():
        run([python, "-m", "venv", str(place / "venv")], ROOT, log)
    if tensorflow:
        minor = ".".join(tensorflow.split(".")[:2])
        setup = place / "source" / "setup.py"
        setup.write_text(re.sub(r'"(tensorflow|tf-keras|tensorboard)>=[^"]*"', rf'"\1=={minor}.*"', setup.read_text()))
    print(f"{name}: install", flush=True)
    if not run([*pip, f"{place / 'source'}[all,test]"], place, log):
        return row | {"result": f"not installable, see {log}"}
    try:
        facts = json.loads(said([inside, "-c", FACTS % (PACKAGES,)], place))
    except subprocess.CalledProcessError:
        return row | {"result": "import fails"}
    row |= {key: ", ".join(value) if isinstance(value, list) else value for key, value in facts.items()}
    print(f"{name}: tests", flush=True)
    start = time.perf_counter()
    run([inside, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *selection], place / "source", log)
    last = log.read_text().rstrip().splitlines()[-1].strip("= ")
    print(f"{name}: {last} ({time.perf_counter() - start:.0f} s)", flush=True)
    return row | {"result": re.sub(r" in [\d.]+s.*", "", last), "date": time.strftime("%Y-%m-%d")}


def table(rows: list[dict[str, str]]) -> str:
    """Markdown."""
    header = ["Python", *PACKAGES, "quick tests", "date"]
    keys = ["python", *PACKAGES, "result", "date"]
    lines = [header, ["---"] * len(header), *([row.get(key, "-") for key in keys] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Measure, keep the rows, put the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="default: python3.10 to python3.13 on the PATH")
    parser.add_argument("--tensorflow", help="a version of TensorFlow (and tf-keras) other than setup.py's")
    parser.add_argument("--tests", nargs="+", default=[], help="test files; default: all")
    arguments = parser.parse_args()
    pythons = arguments.pythons or [found for n in range(10, 14) if (found := shutil.which(f"python3.{n}"))]
    if not pythons:
        parser.error("Expected a Python 3.10 to 3.13 on the PATH or as an argument. Received none.")
    WORK.mkdir(exist_ok=True)
    record = WORK / "rows.json"
    rows = {row["name"]: row for row in json.loads(record.read_text())} if record.exists() else {}
    for python in pythons:
        row = measure(python, arguments.tensorflow, arguments.tests)
        rows[row["name"]] = row
        record.write_text(json.dumps(list(rows.values()), indent=1))
    plain = sorted((row for row in rows.values() if "-tf" not in row["name"]), key=lambda row: row["python"])
    print(table(list(rows.values())))
    if not arguments.tensorflow and not arguments.tests:
        readme = ROOT / "README.md"
        text = readme.read_text()
        head, _, rest = text.partition(BEGIN)
        readme.write_text(f"{head}{BEGIN}\n{table(plain)}\n{END}{rest.partition(END)[2]}")
    return int(any("failed" in row["result"] or "passed" not in row["result"] for row in plain))


if __name__ == "__main__":
    sys.exit(main())
