"""The interpreters of .tflite files behind one small interface: load bytes, run a batch."""

from __future__ import annotations

import abc
import contextlib
import difflib
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_esq.runtime.arena import captured_stderr, recorded_allocations

# What TFLM prints of an operator that it lacks.
_MISSING_OPERATOR = re.compile(r"Failed to get registration from op code\s+(\S+)")

# What resizing the batch of a damaged or unusual graph raises, in any of the interpreters.
_NATIVE_ERRORS = (RuntimeError, ValueError, MemoryError)


class Backend(abc.ABC):
    """One loaded file in one interpreter.

    Attributes:
        max_batch: the most samples that `invoke` takes at once.
    """

    max_batch = 1

    @abc.abstractmethod
    def invoke(self, x: np.ndarray) -> np.ndarray:
        """Run the graph.

        Args:
            x: `(n, *input_shape)` in the input tensor's own type, n <= `max_batch`.

        Returns:
            `(n, *output_shape)` in the output tensor's own type.
        """


_RESOLVERS = {"builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}


class InterpreterBackend(Backend):
    """LiteRT, tflite-runtime and TF: the same Interpreter class from three packages.

    Args:
        module: module that holds `Interpreter`.
        content: the file.
        num_threads: threads of one `invoke`.
        kernels: "default" (XNNPACK in LiteRT and TF, see RUNTIMES), "builtin" (TFLite's own optimized kernels) or
            "reference" (its plain loops).
        preserve: True to keep every intermediate tensor, for `tensor`.
        max_batch: samples at once; 1 for graphs whose batch is fixed.
    """

    def __init__(
        self,
        module: Any,
        content: bytes,
        *,
        num_threads: int = 1,
        kernels: str = "default",
        preserve: bool = False,
        max_batch: int = 1,
    ) -> None:
        options: dict[str, Any] = {"model_content": content, "num_threads": num_threads}
        if kernels != "default":
            options["experimental_op_resolver_type"] = getattr(module.OpResolverType, _RESOLVERS[kernels])
        if preserve:
            options["experimental_preserve_all_tensors"] = True
        with warnings.catch_warnings():
            # The interpreters advertise their successors and the cost of `preserve`; both are chosen here on purpose.
            warnings.simplefilter("ignore", UserWarning)
            self._interpreter = module.Interpreter(**options)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self._batch = int(self._input["shape"][0])
        self.max_batch = max_batch

    def invoke(self, x: np.ndarray) -> np.ndarray:
        if len(x) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], x.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(x)
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output["index"]))

    def tensor(self, index: int) -> np.ndarray:
        """An intermediate tensor of the last `invoke`, by its number in the file (needs `preserve=True`)."""
        return np.asarray(self._interpreter.get_tensor(index))


class MicroBackend(Backend):
    """The TensorFlow Lite for Microcontrollers interpreter: one sample at a time, memory from one arena.

    Args:
        module: `tflite_micro`.
        content: the file.
        arena_size: bytes of the arena; None takes what is needed.
    """

    # No microcontroller has more: a graph that is refused with this arena is refused for another reason.
    _LARGEST_ARENA = 1 << 30

    def __init__(self, module: Any, content: bytes, *, arena_size: int | None = None) -> None:
        # Host memory is cheap and each refused arena prints to stderr, so the first try is a generous one.
        size = max(10 * len(content), 1 << 20)
        while True:
            with captured_stderr() as printed:
                try:
                    self._interpreter = module.runtime.Interpreter.from_bytes(content, arena_size=size)
                    break
                except RuntimeError as error:
                    said, refused = printed(), error
            if missing := _MISSING_OPERATOR.search(said):
                raise RuntimeError(f"TFLM has no operator {missing[1]}") from refused
            size *= 4
            if size > self._LARGEST_ARENA:
                raise RuntimeError(
                    f"TFLM refused the graph with an arena of {size // 4} bytes: {' '.join(said.split()) or refused}"
                ) from refused
        if arena_size is not None:
            self._interpreter = self._in_arena(module, content, arena_size)

    def _in_arena(self, module: Any, content: bytes, arena_size: int) -> Any:
        # What is known to be too small is not tried: look-up tables then crash TFLM instead of being refused.
        needed = recorded_allocations(self._interpreter).total
        with contextlib.suppress(RuntimeError):
            if arena_size >= needed:
                return module.runtime.Interpreter.from_bytes(content, arena_size=arena_size)
        raise RuntimeError(
            f"Expected an arena in which TFLM can allocate the graph, of more than {needed - 1} bytes. Received: "
            f"{arena_size}. Pass a larger arena_size; smallest_arena() tells the smallest."
        )

    def invoke(self, x: np.ndarray) -> np.ndarray:
        self._interpreter.set_input(x, 0)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_output(0)).copy()


@dataclass(frozen=True)
class Runtime:
    """How one runtime is found, installed and opened.

    Attributes:
        module: what to import.
        install: the pip command that brings it.
        kernels: runtimes of equal `kernels` agree bit by bit on int8 files; others differ by 1 step an operator, in
            0.1 % to 0.3 % of the outputs of convolutions and dense layers and up to 17 % of pooled and leaky ones
            (measured operator by operator; a test holds the groups).
        open: (module, content, num_threads, arena_size, max_batch) -> Backend.
    """

    module: str
    install: str
    kernels: str
    open: Callable[[Any, bytes, int, int | None, int], Backend]


def _interpreter(kernels: str = "default") -> Callable[[Any, bytes, int, int | None, int], Backend]:
    def open_interpreter(
        module: Any, content: bytes, num_threads: int, arena_size: int | None, max_batch: int
    ) -> Backend:
        return InterpreterBackend(module, content, num_threads=num_threads, kernels=kernels, max_batch=max_batch)

    return open_interpreter


def _micro(module: Any, content: bytes, num_threads: int, arena_size: int | None, max_batch: int) -> Backend:
    return MicroBackend(module, content, arena_size=arena_size)


_TFLITE = "pip install keras-esq[tflite]"
_TFLITE_RUNTIME = f"{_TFLITE} (its wheels end with Python 3.11; use runtime='litert' on later ones)"
_LITERT_MODULE, _TFLITE_RUNTIME_MODULE = "ai_edge_litert.interpreter", "tflite_runtime.interpreter"

# "-builtin" and "-ref" are the same packages with other kernels: those of phones without XNNPACK, and the plain loops
# that TFLM has too.
RUNTIMES: dict[str, Runtime] = {
    "litert": Runtime(_LITERT_MODULE, _TFLITE, "xnnpack", _interpreter()),
    # 2.14 has no XNNPACK for int8, and rounds depthwise and transposed convolutions as the reference kernels do.
    "tflite-runtime": Runtime(_TFLITE_RUNTIME_MODULE, _TFLITE_RUNTIME, "builtin 2.14", _interpreter()),
    "tf": Runtime("tensorflow", "pip install tensorflow", "xnnpack", _interpreter()),
    "litert-builtin": Runtime(_LITERT_MODULE, _TFLITE, "builtin", _interpreter("builtin")),
    "tf-builtin": Runtime("tensorflow", "pip install tensorflow", "builtin", _interpreter("builtin")),
    "tflite-runtime-ref": Runtime(_TFLITE_RUNTIME_MODULE, _TFLITE_RUNTIME, "reference", _interpreter("reference")),
    "tflm": Runtime("tflite_micro", "pip install keras-esq[mcu]", "reference", _micro),
}
_ISOLATED = "_keras_esq_isolated"
# What "auto" tries in this order; TFLM, made for other machines, comes last.
AUTO = ("litert", "tflite-runtime", "tf", "tflm")


def _import(name: str) -> Any:
    if name == "tensorflow":
        import tensorflow as tf

        # TF is the one package that spreads the two names over two modules.
        return SimpleNamespace(Interpreter=tf.lite.Interpreter, OpResolverType=tf.lite.experimental.OpResolverType)
    if name == "tflite_runtime.interpreter":
        return _import_isolated(name)
    return importlib.import_module(name)


def _import_isolated(name: str) -> Any:
    """Import tflite-runtime so that its native library uses its own symbols, not those of a loaded TensorFlow.

    TensorFlow loads its library globally, and the two share symbol names of different layout: tflite-runtime imported
    after it in the ordinary way raises `vector::reserve` or `std::bad_alloc`, or ends the process.

    Raises:
        ImportError: if the program has already imported it in that way.
    """
    loaded = list(sys.modules)
    if name in sys.modules:
        broken = "tensorflow" in loaded and loaded.index("tensorflow") < loaded.index(name)
        if broken and not getattr(sys.modules[name], _ISOLATED, False):
            raise ImportError(
                "tflite_runtime was imported after tensorflow, whose symbols then break it. Remove that import "
                "(keras_esq imports it safely) or move it before the import of tensorflow and keras_esq"
            )
        return sys.modules[name]
    flags = sys.getdlopenflags() if hasattr(sys, "getdlopenflags") else None
    try:
        if flags is not None:
            # Only glibc knows the flag; elsewhere libraries keep their symbols apart by themselves.
            sys.setdlopenflags(os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0))
        module = importlib.import_module(name)
    finally:
        if flags is not None:
            sys.setdlopenflags(flags)
    setattr(module, _ISOLATED, True)
    return module


def available_runtimes() -> tuple[str, ...]:
    """Names of the runtimes whose package is installed, without importing any of them."""
    return tuple(n for n, r in RUNTIMES.items() if importlib.util.find_spec(r.module.partition(".")[0]) is not None)


def resolve_runtime(name: str) -> str:
    """The runtime that `name` means: itself, or the first installed one for "auto".

    Raises:
        ValueError: for an unknown name.
        ImportError: if it is not installed.
    """
    installed = available_runtimes()
    if name == "auto":
        for candidate in AUTO:
            if candidate in installed:
                return candidate
        raise ImportError(f"Expected an installed TFLite runtime. Received none of {AUTO}. Run: {_TFLITE}")
    if name not in RUNTIMES:
        near = difflib.get_close_matches(str(name), [*RUNTIMES, "auto"], n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected runtime to be one of {['auto', *RUNTIMES]}. Received: {name!r}.{hint}")
    if name not in installed:
        raise ImportError(
            f"Expected an installed package for runtime {name!r}. Received none: the module "
            f"{RUNTIMES[name].module!r} is missing. Run: {RUNTIMES[name].install}"
        )
    return name


def open_backend(
    content: bytes, runtime: str, *, num_threads: int = 1, arena_size: int | None = None, max_batch: int = 1
) -> Backend:
    """Load a verified file into a runtime.

    Raises:
        ImportError: if the runtime's package is installed but broken.
        RuntimeError: if the runtime refuses the file, such as for an operator that it lacks.
    """
    entry = RUNTIMES[runtime]
    try:
        module = _import(entry.module)
    except ImportError as error:
        raise ImportError(
            f"Expected runtime {runtime!r} to import. Received: {error}. Run: {entry.install}", name=entry.module
        ) from error
    try:
        return entry.open(module, content, num_threads, arena_size, max_batch)
    except _NATIVE_ERRORS as error:
        raise RuntimeError(
            f"Expected a file that runtime {runtime!r} can run. It answered: {str(error).rstrip('. ')}. "
            f"Other runtimes here: {[n for n in available_runtimes() if n != runtime]}."
        ) from error


def open_preserving(content: bytes, max_batch: int) -> InterpreterBackend:
    """A backend of plain kernels that keeps all intermediate tensors, for comparing layer by layer."""
    names = ("litert-builtin", "tf-builtin")
    runtime = next(name for name in names if name in available_runtimes())
    return InterpreterBackend(
        _import(RUNTIMES[runtime].module), content, kernels="builtin", preserve=True, max_batch=max_batch
    )
