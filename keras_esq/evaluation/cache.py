"""Finished batches on disk: a killed evaluation goes on from them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq import __version__
from keras_esq._files import write_atomic
from keras_esq._keras import keras
from keras_esq.attacks import Attack, logits_fn
from keras_esq.evaluation.batches import BatchOutcome
from keras_esq.evaluation.targets import Target, get_target
from keras_esq.quantize.graph import unwrap

# Part of each key: what an older format wrote is never read.
_FORMAT = 2
# Images that are asked about once more, with noise of either amplitude, in ranges of the images.
_PROBED = 8
_NOISE = (0.03, 0.3)


class BatchCache:
    """A folder with one file per attacked batch, named by a hash of all that its content depends on.

    That is the model (weights, scores on all images and on noisy copies of some, input gradients at some), the attack
    and its settings, the seed, the images and labels of the batch. So another model, other data or other settings are
    computed anew, beside what is there already; nothing is ever used for what it was not made for. Delete the folder
    when done.

    Args:
        folder: made if it does not exist.
        target: what is attacked.
        images: all images (n, ...).
        scores: those of the target for `images`, (n, k).

    Raises:
        OSError: if the folder can't be made or is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], target: Target, images: np.ndarray, scores: np.ndarray) -> None:
        self._folder = Path(folder)
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(
                f"Expected cache to be a folder. Received the file {str(folder)!r}. Choose another."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._target = _target_key(target, images, scores)

    def path(self, attack: Attack, images: np.ndarray, labels: np.ndarray) -> Path:
        """Where the outcome of `attack`, seed included, on this batch belongs.

        Raises:
            ValueError: for an attack with settings that can't be told apart, such as a loss of the user's own.
        """
        key = _digest(f"{_FORMAT} {__version__}", self._target, describe(attack, images), images, labels)
        return self._folder / f"{type(attack).__name__.lower()}-{key[:32]}.npz"

    def load(self, path: Path, shape: tuple[int, ...]) -> BatchOutcome | None:
        """What was kept there, for images of `shape`; None if nothing was, or it can't be read."""
        try:
            with np.load(path, allow_pickle=False) as content:
                x_adv, seconds = content["x_adv"], float(content["seconds"])
                queries = content.get("queries")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return BatchOutcome(x_adv=x_adv, queries=queries, seconds=seconds) if x_adv.shape == shape else None

    def save(self, path: Path, outcome: BatchOutcome) -> None:
        """Keep `outcome`, whole or not at all."""
        content: dict[str, Any] = {"x_adv": outcome.x_adv, "seconds": np.float64(outcome.seconds)}
        if outcome.queries is not None:
            content["queries"] = outcome.queries
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        write_atomic(path, buffer.getvalue())


def describe(value: Any, images: np.ndarray) -> str:
    """Settings of an attack on `images` (n, ...) as text that is equal for equal settings, in any process.

    Raises:
        ValueError: for what can't be told apart by its value, such as a function.
    """
    if isinstance(value, Attack):
        names = [field.name for field in dataclasses.fields(value)]
        settings = ", ".join(f"{name}={describe(getattr(value, name), images)}" for name in names)
        return f"{type(value).__module__}.{type(value).__qualname__}({settings})"
    if isinstance(value, keras.Model):
        source = get_target(value)  # by its scores too: networks of the same weights may differ in what has none
        return f"model {_target_key(source, images, source.logits(images, len(images)))}"
    if isinstance(value, tf.Variable) or tf.is_tensor(value):
        return repr(value.numpy().tolist())
    if isinstance(value, list | tuple):
        return f"[{', '.join(describe(one, images) for one in value)}]"
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return repr(value.item() if isinstance(value, np.generic) else value)
    raise ValueError(
        f"Expected attacks whose settings are numbers, names or tf_keras models, if a cache is to find them again. "
        f"Received: {value!r}. Evaluate this attack without cache=."
    )


def _target_key(target: Target, images: np.ndarray, scores: np.ndarray) -> str:
    noisy = _noisy(images[:_PROBED])
    # The noise tells targets apart that answer the same for clean images only, such as one that rounds its input to 8
    # bits, which they have.
    scores = np.concatenate([scores, target.logits(noisy, len(noisy))])
    if not target.has_gradients:
        return _digest(scores)
    # The gradient tells models apart that predict the same, such as a rounding layer with and without straight-through.
    x = tf.constant(images[:_PROBED])
    with tf.GradientTape() as tape:
        tape.watch(x)
        largest = tf.reduce_max(logits_fn(target.model)(x), axis=1)
    gradient = tape.gradient(largest, x)
    return _digest(scores, *unwrap(target.model).get_weights(), "no gradient" if gradient is None else gradient.numpy())


def _noisy(images: np.ndarray) -> np.ndarray:
    """Copies of `images` (n, ...) within their range, (2 n, ...), the same at each call."""
    low, high = images.min(), images.max()
    noise = np.random.default_rng(0).uniform(-1, 1, images.shape).astype(np.float32) * (high - low)
    return np.concatenate([np.clip(images + amplitude * noise, low, high) for amplitude in _NOISE])


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        kind = "text" if isinstance(part, str) else f"{part.dtype} {part.shape}"
        # The length keeps two neighbours from passing for one.
        digest.update(f"{kind} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
