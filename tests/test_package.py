"""The package as a whole: what importing it does, which names it gives, what its files promise."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_esq as esq

ROOT = Path(__file__).parents[1]


def run(script, **env):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"} | env
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_importing_the_package_imports_nothing_heavy():
    heavy = "tensorflow keras tf_keras matplotlib keras_tuner kerastuner ai_edge_litert tflite_runtime tflite_micro"
    script = f"import sys, keras_esq; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert run(script).strip() == "[]"


def test_using_it_imports_no_interpreter_tuner_or_keras_3():
    # TensorFlow itself imports Keras 3, unless it is told to use tf-keras.
    modules = ["keras", "keras_tuner", "ai_edge_litert", "tflite_runtime", "tflite_micro"]
    script = (
        "import sys, keras_esq as esq; esq.quantize_model, esq.ErrorSilencedModel, esq.attacks, esq.convert, "
        f"esq.Flatbuffer, esq.evaluate_robustness; print([m for m in {modules!r} if m in sys.modules])"
    )
    assert run(script, TF_USE_LEGACY_KERAS="1").strip().endswith("[]")


@pytest.mark.parametrize("first", ["import tensorflow as tf", "import keras", "import tf_keras", "pass"])
def test_the_users_keras_stays_what_it_was(first):
    """tfmot turns `tf.keras` into Keras 2 for the whole program; not through us, whatever is imported first."""
    script = (
        f"{first}\n"
        "import os, keras_esq as esq\n"
        "esq.quantize_model\n"
        "import tensorflow as tf\n"
        "print('KERAS', tf.keras.__version__.split('.')[0], os.environ.get('TF_USE_LEGACY_KERAS'))\n"
        "from tensorflow_model_optimization.python.core.keras.compat import keras as inside\n"
        "print('INSIDE', inside.__name__)\n"
    )
    output = run(script)
    assert "KERAS 3 None" in output
    assert "INSIDE tf_keras" in output


def test_public_names_are_there_and_no_others():
    from keras_esq import _PUBLIC, __all__

    flat = {name for names in _PUBLIC.values() for name in names} | {m for m, names in _PUBLIC.items() if not names}
    assert set(__all__) == flat
    for module, names in _PUBLIC.items():
        inside = importlib.import_module(f"keras_esq.{module}")
        assert set(names) <= set(inside.__all__ if names else [])
        for name in names:
            assert getattr(esq, name) is getattr(inside, name)
            assert getattr(esq, name).__doc__
    assert set(__all__) <= set(dir(esq))
    with pytest.raises(AttributeError, match="quantise"):
        getattr(esq, "quantise")  # noqa: B009


def test_static_names_are_the_lazy_ones():
    """Editors and mypy read the names under TYPE_CHECKING, programs those of _PUBLIC."""
    text = (ROOT / "keras_esq/__init__.py").read_text()
    block = text[text.index("if TYPE_CHECKING:") : text.index("__version__")]
    names = set(re.findall(r"\b\w+\b", re.sub(r"from [\w.]+ import|if TYPE_CHECKING", "", block)))
    assert names == set(esq.__all__)


def test_no_assert_checks_arguments():
    offenders = [
        f"{path}:{number}"
        for path in (ROOT / "keras_esq").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*assert\b", line)
    ]
    assert offenders == []


def test_rooms_depend_only_on_rooms_above():
    above = ["quantize", "attacks", "training", "evaluation", "conversion", "runtime"]
    also = {"evaluation": {"runtime"}, "conversion": {"runtime"}}
    for room in above:
        allowed = set(above[: above.index(room) + 1]) | also.get(room, set())
        for path in (ROOT / "keras_esq" / room).glob("*.py"):
            used = set(re.findall(r"(?:from|import) keras_esq\.(\w+)", path.read_text())) & set(above)
            assert used <= allowed, f"{path.name} of {room} imports {used - allowed}"


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [("small_cnn", (None, 8, 8, 1), 24_282), ("resnet20", (None, 32, 32, 3), 0.27e6), ("resnet56", None, 0.85e6)],
)
def test_reference_networks(name, shape, weights):
    """He et al. 2015, table 6: 0.27 and 0.85 million weights; the projections in two shortcuts add 1 %."""
    net = esq.models.small_cnn() if name == "small_cnn" else esq.models.resnet_cifar(int(name.removeprefix("resnet")))
    assert shape in (None, net.input_shape)
    assert net.output_shape == (None, 10)
    assert net.count_params() == pytest.approx(weights, rel=0.03)
    with pytest.raises(ValueError, match="6n"):
        esq.models.resnet_cifar(21)


def test_digits(digits):
    assert [len(x) for x in (digits.x_train, digits.x_val, digits.x_test)] == [1197, 200, 400]
    everything = [digits.x_train, digits.x_val, digits.x_test]
    assert all(x.shape[1:] == (8, 8, 1) and x.min() == 0 and x.max() == 1 for x in everything)
    assert {len({*y.tolist()}) for y in (digits.y_train, digits.y_val, digits.y_test)} == {10}
    again = esq.data.load("digits")
    assert (again.x_test == digits.x_test).all()
    with pytest.raises(ValueError, match="digits"):
        esq.data.load("digit")
