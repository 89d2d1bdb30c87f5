"""TFLM beyond running a file: the memory that it needs, the tensors inside."""

from __future__ import annotations

import numpy as np

from keras_esq.runtime.arena import quiet_stderr, recorded_allocations
from keras_esq.runtime.backends import RUNTIMES, _import, open_backend, resolve_runtime


class MicroPreserving:
    """TFLM with every intermediate tensor kept, for comparing layer by layer.

    Args:
        content: a verified file.

    Raises:
        RuntimeError: if TFLM refuses it.
    """

    def __init__(self, content: bytes) -> None:
        runtime = _import(RUNTIMES["tflm"].module).runtime
        self._interpreter = runtime.Interpreter.from_bytes(
            content,
            arena_size=generous_arena(content),
            intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
        )

    def invoke(self, x: np.ndarray) -> None:
        """Run one sample `(1, *input_shape)` in the input's own type."""
        self._interpreter.set_input(x, 0)
        self._interpreter.invoke()

    def tensor(self, index: int) -> np.ndarray:
        """An intermediate tensor of the last `invoke`, by its number in the file."""
        return np.asarray(self._interpreter.GetTensor(index, 0)["tensor_data"])


def generous_arena(content: bytes) -> int:
    """Bytes of an arena that is large enough for any file that was opened before: host memory is cheap."""
    return max(40 * len(content), 1 << 24)


def smallest_arena(content: bytes) -> int:
    """The smallest arena, in bytes, in which TFLM allocates a verified file, to 16 bytes.

    Raises:
        ImportError: if tflite-micro is not installed.
        RuntimeError: if TFLM refuses the file, whatever the arena.
    """
    resolve_runtime("tflm")
    module = _import(RUNTIMES["tflm"].module)
    open_backend(content, "tflm")

    def fits(size: int) -> bool:
        try:
            module.runtime.Interpreter.from_bytes(content, arena_size=size)
        except RuntimeError:
            return False
        return True

    used = recorded_allocations(module.runtime.Interpreter.from_bytes(content, arena_size=generous_arena(content)))
    high = -(-used.total // 16) * 16
    with quiet_stderr():
        while not fits(high):
            high += 16
        # Never below what stays: where that has no room, look-up tables crash TFLM instead of being refused.
        while high - 16 >= used.total and fits(high - 16):
            high -= 16
    return high
