"""Reading a pickle without running what is in it.

A pickle is a program: it may name any function of any module, and have it called. The official CIFAR files name three
things, which make a numpy array. Those names get stand-ins here, so that not even numpy's own code is given what a
file says; every other name is refused before anything is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

# What builds plain data. Others make objects of any class, or take as much memory as a damaged file says.
_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),  # to which the stand-ins answer
    )
)


class _ByteType:
    """Stands for numpy.dtype; only that of bytes is taken."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _ByteType:
        if name not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"an array of type {name!r} instead of bytes")
        return self

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: bytes have none."""


class _Array:
    """Stands for a numpy array while its parts arrive."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of something else than bytes")
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape!r} with {len(content)} bytes")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _ArrayMaker:
    """Stands for the function with which numpy makes an empty array to fill."""

    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _ArrayClass:
    """Stands for numpy.ndarray, which is only handed on."""

    __slots__ = ()


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _ArrayMaker,
    ("numpy._core.multiarray", "_reconstruct"): _ArrayMaker,  # the name since numpy 2
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _ByteType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, fresh for each use so that a file can't change it for the next one."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"the foreign name {module}.{name}, which was not run")
        return _STAND_INS[module, name]()


def _check_instructions(content: bytes) -> None:
    for instruction, argument, _ in pickletools.genops(content):
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"the foreign instruction {instruction.name}, which was not run")
        if instruction.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"{argument} remembered values in {len(content)} bytes")


def unpickle_arrays(content: bytes, what: str) -> dict[str, Any]:
    """The dictionary in a pickle of bytes, numbers, text, lists, dictionaries and arrays of bytes; runs no code.

    Args:
        content: the file. Python 2's pickles, as the official ones, have byte strings as keys.
        what: what to call the file in an error.

    Returns:
        Its entries under text keys; arrays as uint8, read-only.

    Raises:
        ValueError: if the pickle is damaged, holds something else than a dictionary, or names anything but byte arrays.
    """
    try:
        _check_instructions(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"Expected {what} to be a pickle of plain data and byte arrays. Received {error or type(error).__name__}. "
            "Use the original file."
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"Expected {what} to hold a dictionary. Received {type(loaded).__name__}.")
    return {
        key.decode("latin-1") if isinstance(key, bytes) else str(key): (
            getattr(value, "value", None) if isinstance(value, _Array) else value
        )
        for key, value in loaded.items()
    }
