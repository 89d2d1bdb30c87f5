"""Models and data as the command line names them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.cli.command import count


def add_model(parser: argparse.ArgumentParser, name: str, what: str, **settings: Any) -> None:
    """Add an argument that names a model."""
    parser.add_argument(name, help=f"{what}: a saved model (.keras, .h5, SavedModel) or module:function", **settings)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name data."""
    parser.add_argument(
        "--data", default="digits", help="a data set's name, an .npz file or an image folder (default: %(default)s)"
    )
    parser.add_argument("--data-path", metavar="PATH", help="where the data set's own files are")
    parser.add_argument(
        "--image-size", nargs=2, type=count, metavar=("HEIGHT", "WIDTH"), help="of an image folder: resize its images"
    )
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), help="of an image folder: 1 for grey, 3 for colour (default: 3)"
    )


def load_data(arguments: argparse.Namespace) -> Any:
    """The `keras_esq.data.Dataset` of the arguments that `add_data` added."""
    from keras_esq import data

    size = None if arguments.image_size is None else tuple(arguments.image_size)
    return data.resolve(arguments.data, arguments.data_path, image_size=size, channels=arguments.channels)


def load_model(text: str) -> Any:
    """The Keras model that `text` names.

    Raises:
        FileNotFoundError: if there is no such file and it is no module:function.
        ImportError: if the module can't be imported.
        ValueError: if the module has no such function, or the file is no model.
        TypeError: if the function returns no model.
    """
    if os.path.exists(text):
        import keras_esq as esq

        return esq.load_model(text)
    function = find_function(text)
    model = function() if callable(function) and not hasattr(function, "layers") else function
    if not hasattr(model, "layers"):
        raise TypeError(f"Expected {text!r} to return a Keras model. Received {type(model).__name__}.")
    return model


def find_function(text: str) -> Any:
    """What `module:function` names, not called.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `load_model`.
    """
    module_name, colon, function_name = text.partition(":")
    if not colon or os.sep in module_name:
        raise FileNotFoundError(
            f"Expected a saved model (.keras, .h5 or a SavedModel folder) or module:function. Received {text!r}, "
            "where there is nothing. Check the path."
        )
    # As `python -m` does, so that a script beside the user is found.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Expected module:function. The module of {text!r} was not found ({error}). Run in its folder, or install "
            "it."
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise ValueError(
            f"Expected a function of module {module_name!r}. Received {function_name!r}. "
            f"{near_matches(function_name, [name for name in vars(module) if not name.startswith('_')])}"
        )
    return function


def load_target(text: str, runtime: str = "auto") -> Any:
    """What `text` names, for an evaluation: a .tflite file behind `runtime`, or a Keras model."""
    if text.endswith(".tflite"):
        from keras_esq.runtime import Flatbuffer

        return Flatbuffer(text, runtime=runtime)
    return load_model(text)
