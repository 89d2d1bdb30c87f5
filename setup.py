"""Metadata of keras-esq. Every lower bound is a version that the test suite was run with."""

from pathlib import Path

from setuptools import find_packages, setup

# tflite-runtime has no wheels for CPython 3.12 and later, and was built against numpy 1.
TFLITE_RUNTIME = "tflite-runtime>=2.14,<2.15; python_version < '3.12' and sys_platform == 'linux'"

EXTRAS = {
    "tflite": ["ai-edge-litert>=2.3,<3", TFLITE_RUNTIME],
    # tflite-micro exists as pre-releases only, and does not declare that it needs pyyaml.
    "mcu": ["tflite-micro==0.dev20261023182759; sys_platform == 'linux'", "pyyaml>=6.0.3"],
    # Needs flatbuffers and numpy in any version that TensorFlow takes.
    "ethos-u": ["ethos-u-vela>=5.2,<6"],
    # keras-tuner does not declare that it needs tensorboard.
    "tuner": ["keras-tuner>=1.4.8,<2", "tensorboard>=2.21"],
    "attacks": ["cleverhans>=4.0,<5"],
    "demo": ["scikit-learn>=1.7.2", "matplotlib>=3.10.9"],
    "test": [
        "pytest>=9.2",
        "pytest-xdist>=3.8",
        "ruff>=0.17.5,<0.18",
        "mypy>=2.4.1",
        "scikit-learn>=1.7.2",
        "matplotlib>=3.10.9",
    ],
}
EXTRAS["all"] = sorted(
    {name for extra in ("tflite", "mcu", "ethos-u", "tuner", "attacks", "demo") for name in EXTRAS[extra]}
)

setup(
    name="keras-esq",
    version="0.1.0",
    description="Small image classifiers that are hard to fool: 1- and 2-bit Keras models, trained and proven robust",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["keras_esq", "keras_esq.*"]),
    package_data={"keras_esq": ["py.typed", "experiment/presets/*.toml"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        # The oldest: up to 2.20 the schema of .tflite files has no INT2, in which compact files are written.
        "tensorflow>=2.21,<2.22",
        "tf-keras>=2.21,<2.22",
        "tensorflow-model-optimization>=0.8.1,<0.9",
        "cleverhans>=4.0,<5",
        # tflite-runtime 2.14 and numpy 2 don't work together.
        "numpy>=1.26.4,<2; python_version < '3.12'",
        "numpy>=1.26.4,<3; python_version >= '3.12'",
        "matplotlib>=3.10.9",
        "tqdm>=4.70.1",
        "tomli>=2.4.1; python_version < '3.11'",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-esq=keras_esq.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
