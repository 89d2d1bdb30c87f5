"""A .tflite classifier that can be called with numpy arrays, whatever runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq.runtime.agreement import Agreement
from keras_esq.runtime.backends import AUTO, Backend, available_runtimes, open_backend, resolve_runtime
from keras_esq.runtime.batching import is_batchable
from keras_esq.runtime.flatbuffer_format import FlatbufferError, items, parse, read
from keras_esq.runtime.metadata import read_metadata, verify_seal
from keras_esq.runtime.micro import smallest_arena
from keras_esq.runtime.micro_check import check_micro
from keras_esq.runtime.micro_profile import ArenaReport, MicroProfile, arena_report, profile
from keras_esq.runtime.port import Port
from keras_esq.runtime.support import lack, refusal


class Flatbuffer:
    """A .tflite classifier of one input and one output.

    Args:
        path: the file.
        runtime: what runs it: "litert" (ai-edge-litert), "tflite-runtime", "tf" (TensorFlow's interpreter), "tflm"
            (TensorFlow Lite for Microcontrollers); "litert-builtin" and "tf-builtin" without XNNPACK, or
            "tflite-runtime-ref" with the reference kernels, bit for bit those of TFLM. "auto", the default, is the
            first installed of litert, tflite-runtime, tf and tflm that can run the file.
        num_threads: threads of one inference; 1 by default, because small networks gain nothing from more. TFLM
            always uses one.
        arena_size: bytes of TFLM's arena; None, the default, takes what is needed. For "tflm" only.
        verify: refuse a file of `keras_esq.convert` that changed since it was written, True by default: interpreters
            trust what they read, and damage may end the process. False is for files that another tool edited on
            purpose. Files of other writers are checked for their structure; for TFLM, which checks least itself,
            operator by operator, and those of operators that can't be checked need verify=False.

    Attributes:
        agreement: how the file agreed with its Keras model when `keras_esq.convert` wrote it; None for other files.
        compiler_report: what an NPU's compiler said when `keras_esq.convert` ran it (a VelaReport or EdgeTpuReport);
            None for other files.
        metadata: what `keras_esq.convert` noted in the file (version, target, bounds, bits of each layer and what was
            passed to it); None for other files.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no whole .tflite classifier, or the runtime's name is unknown.
        ImportError: if the runtime is not installed.
        RuntimeError: if the runtime refuses the file, such as for an operator that it lacks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        num_threads: int = 1,
        arena_size: int | None = None,
        verify: bool = True,
    ) -> None:
        self._load(Path(path), read(path), runtime, num_threads, arena_size, verify)

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        runtime: str = "auto",
        *,
        num_threads: int = 1,
        arena_size: int | None = None,
        verify: bool = True,
    ) -> Flatbuffer:
        """The same from the bytes of a file; `path` is None. Arguments and errors as of the class."""
        self = cls.__new__(cls)
        self._load(None, content, runtime, num_threads, arena_size, verify)
        return self

    def _load(
        self,
        path: Path | None,
        content: bytes,
        runtime: str,
        num_threads: int,
        arena_size: int | None,
        verify: bool,
    ) -> None:
        if isinstance(num_threads, bool) or not isinstance(num_threads, int | np.integer) or num_threads < 1:
            raise ValueError(f"Expected num_threads to be a whole number of at least 1. Received: {num_threads!r}.")
        self.path = path
        name = repr(str(path)) if path else "bytes"
        self.runtime = resolve_runtime(runtime)
        model = parse(content, name)
        sealed = verify and verify_seal(content, model, name)
        if runtime == "auto":
            able = [r for r in AUTO if r in available_runtimes() and not (refusal(model, r) or lack(model, r))]
            self.runtime = able[0] if able else self.runtime
        if why := refusal(model, self.runtime) or lack(model, self.runtime):
            raise RuntimeError(f"Expected a file that runtime {self.runtime!r} can run. Received {name}: {why}.")
        if self.runtime == "tflm" and verify and not sealed:
            try:
                check_micro(model)
            except FlatbufferError as error:
                raise FlatbufferError(
                    "Expected a file that is safe to run in TFLM, which may end the process where a file is not "
                    f"consistent. Received {name}: {error}. Convert it again with keras_esq.convert, or pass "
                    "verify=False if you trust it."
                ) from error
        if arena_size is not None and (self.runtime != "tflm" or arena_size < 1):
            raise ValueError(
                f"Expected arena_size (bytes) with runtime='tflm' only. Received: {arena_size!r}, {self.runtime!r}."
            )
        self.agreement: Agreement | None = None
        self.compiler_report: Any = None
        self.metadata = read_metadata(model, name)
        self.num_bytes = len(content)
        subgraph = model.subgraphs[0]
        inputs, outputs = items(subgraph.inputs), items(subgraph.outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"Expected a classifier of 1 input and 1 output. Received {len(inputs)} and {len(outputs)}. "
                "Run such a file with the runtime's own interpreter."
            )
        self._input, self._output = Port(subgraph.tensors[inputs[0]]), Port(subgraph.tensors[outputs[0]])
        self._content, self._num_threads, self._arena_size = content, int(num_threads), arena_size
        self._backend = self._open((1 << 30) if is_batchable(model) else 1)

    def _open(self, max_batch: int) -> Backend:
        return open_backend(
            self._content,
            self.runtime,
            num_threads=self._num_threads,
            arena_size=self._arena_size,
            max_batch=max_batch,
        )

    def __repr__(self) -> str:
        where = str(self.path) if self.path else "from bytes"
        return (
            f"<Flatbuffer {where}: {self.num_bytes} bytes, {self.input_shape} -> {self.output_shape}, "
            f"runtime {self.runtime!r}>"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""
        return self._input.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output, without the batch: `(classes,)`."""
        return self._output.shape

    @property
    def input_dtype(self) -> np.dtype:
        """Type that the file itself reads: int8, uint8 or float32."""
        return self._input.dtype

    @property
    def output_dtype(self) -> np.dtype:
        """Type that the file itself writes."""
        return self._output.dtype

    @property
    def input_quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) of the input, real = scale * (stored - zero point); None if the input is float."""
        return self._input.quantization

    @property
    def output_quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) of the output; None if the output is float."""
        return self._output.quantization

    def predict(self, x: Any, batch_size: int = 64) -> np.ndarray:
        """Outputs of the classifier in real numbers.

        Args:
            x: `(n, *input_shape)`, n >= 1, the values that the Keras model takes. Values outside of the file's input
                range saturate, as on the device.
            batch_size: samples at once, where runtime and graph allow more than one. The result does not depend on it;
                64 is where the time of small int8 networks stops falling.

        Returns:
            `(n, *output_shape)`, float32: what the last Keras layer gives (logits or probabilities).

        Raises:
            ValueError: if x has another shape, is empty, is not numeric or holds NaN or infinity.
        """
        values = self._check(x)
        return self._output.to_real(self._run(self._input.from_real(values), batch_size))

    def predict_raw(self, q: Any, batch_size: int = 64) -> np.ndarray:
        """Outputs as they are stored, for bit-exact comparison.

        Args:
            q: `(n, *input_shape)` of the file's `input_dtype`, as `quantize` gives.
            batch_size: as of `predict`.

        Returns:
            `(n, *output_shape)` of the file's `output_dtype`.

        Raises:
            ValueError: if q has another shape or type.
        """
        q = np.asarray(q)
        if q.dtype != self.input_dtype:
            raise ValueError(
                f"Expected q of the file's type {self.input_dtype}. Received: {q.dtype}. Use quantize(x) or predict(x)."
            )
        return self._run(self._check(q), batch_size)

    def quantize(self, x: Any) -> np.ndarray:
        """x in the file's input type: rounded and saturated by the input's scale. Arguments as of `predict`."""
        return self._input.from_real(self._check(x))

    def smallest_arena(self) -> int:
        """The smallest arena, in bytes, in which TFLM runs the file, to 16 bytes.

        Measured on this machine. Pointers make it larger here than on a microcontroller of 32 bits.

        Raises:
            ImportError: if tflite-micro is not installed.
            RuntimeError: if TFLM refuses the file, whatever the arena.
        """
        return smallest_arena(self._content)

    def arena_report(self) -> ArenaReport:
        """What TFLM puts into its arena: activations, what stays, and the smallest arena. Print it.

        Raises:
            ImportError: if tflite-micro is not installed.
            RuntimeError: if TFLM refuses the file, whatever the arena.
        """
        return arena_report(self._content)

    def operator_times(self, repeats: int = 20) -> MicroProfile:
        """The time of each operator in TFLM, on this machine. Print it.

        Args:
            repeats: runs of each operator, of which the best counts; 20 by default, which other processes can't spoil
                all.

        Raises:
            ValueError: if repeats is no whole number of at least 1.
            ImportError: if tflite-micro is not installed.
            RuntimeError: if TFLM refuses the file.
        """
        if isinstance(repeats, bool) or not isinstance(repeats, int | np.integer) or repeats < 1:
            raise ValueError(f"Expected repeats to be a whole number of at least 1. Received: {repeats!r}.")
        model = parse(self._content)
        if why := refusal(model, "tflm") or lack(model, "tflm"):
            raise RuntimeError(f"Expected a file that runtime 'tflm' can run. Received: {why}.")
        return profile(self._content, repeats)

    def _check(self, x: Any) -> np.ndarray:
        expected = f"Expected x of shape (n, {', '.join(map(str, self.input_shape))})"
        try:
            values = np.asarray(x)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{expected}. Received something that is no array: {error}.") from error
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{expected} and real numbers. Received elements of type {values.dtype}.")
        if values.shape == self.input_shape:
            raise ValueError(f"{expected}. Received one sample of shape {values.shape}. Pass x[None].")
        if values.shape[1:] != self.input_shape or values.ndim != len(self.input_shape) + 1:
            raise ValueError(f"{expected}. Received the shape {values.shape}.")
        if len(values) == 0:
            raise ValueError(f"{expected} with n of at least 1. Received no samples.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            raise ValueError(
                f"{expected} without NaN or infinity. Received them in {len(bad)} of {len(values)} samples, the first "
                f"of them sample {bad[0]}."
            )
        return values

    def _run(self, q: np.ndarray, batch_size: int) -> np.ndarray:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"Expected batch_size to be a whole number of at least 1. Received: {batch_size!r}.")
        q = np.ascontiguousarray(q)
        result = np.empty((len(q), *self.output_shape), self.output_dtype)
        start = 0
        while start < len(q):
            size = min(int(batch_size), self._backend.max_batch)
            part = q[start : start + size]
            try:
                answer = self._backend.invoke(part)
            except (RuntimeError, ValueError):
                if size == 1:
                    raise
                # The runtime can't resize this graph after all; a failed interpreter may not be used again.
                self._backend = self._open(1)
                continue
            result[start : start + len(part)] = answer
            start += len(part)
        return result
