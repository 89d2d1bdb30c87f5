"""The papers' augmentation: random crops of padded images, horizontal flips."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_esq._checks import check_count, near_matches


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
        pad: pixels of black (0) added on every side before a random part of the original size is cut out; 0 for no
            crop. The papers pad 4 on 32x32.
        flip: mirror each image left to right with a chance of one half.

    Raises:
        TypeError: for a `pad` that is no whole number, or a `flip` that is no truth value.
        ValueError: for a negative `pad`.

    Reference: He et al. 2015, arXiv 1512.03385, section 4.2; after Lee et al. 2014, arXiv 1409.5185.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        check_count("pad", self.pad, minimum=0)
        if not isinstance(self.flip, bool):
            raise TypeError(f"Expected flip to be True or False. Received: {self.flip!r}.")


AUGMENTATIONS = {
    "none": Augmentation(pad=0, flip=False),
    "crop": Augmentation(pad=4, flip=False),
    "crop_flip": Augmentation(pad=4, flip=True),
}


def get_augmentation(augment: str | Augmentation) -> Augmentation:
    """The augmentation of that alias: "none", "crop" (for digits, whose mirror image is another) or "crop_flip".

    Raises:
        TypeError: for something else than an alias or an Augmentation.
        ValueError: for an unknown alias, with the near ones.
    """
    if isinstance(augment, Augmentation):
        return augment
    if not isinstance(augment, str):
        raise TypeError(
            f"Expected augment to be one of {list(AUGMENTATIONS)} or an Augmentation. Received {augment!r}."
        )
    if augment not in AUGMENTATIONS:
        raise ValueError(
            f"Expected augment out of {list(AUGMENTATIONS)}. Received {augment!r}. "
            f"{near_matches(augment, AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[augment]


def augmented(x: Any, augmentation: Augmentation, seed: Any) -> Any:
    """A batch with each image cropped and mirrored at random; the same for the same seed.

    Args:
        x: images, tensor (n, height, width, channels).
        augmentation: what to do.
        seed: two integers, tensor (2,), int32.

    Returns:
        A tensor of the shape and type of `x`.
    """
    import tensorflow as tf

    n, height, width = (tf.shape(x)[axis] for axis in range(3))
    pad = augmentation.pad
    static_shape = x.shape
    if pad:
        room = [[pad, pad]] * 2
        offsets = tf.random.stateless_uniform([n, 2], seed, 0, 2 * pad + 1, tf.int32)
        rows = offsets[:, 0, None] + tf.range(height)
        columns = offsets[:, 1, None] + tf.range(width)
        x = tf.gather(tf.pad(x, [[0, 0], *room, [0, 0]]), rows, axis=1, batch_dims=1)
        x = tf.gather(x, columns, axis=2, batch_dims=1)
    if augmentation.flip:
        chance = tf.random.stateless_uniform([n], tf.random.fold_in(seed, 1))
        x = tf.where(chance[:, None, None, None] < 0.5, tf.reverse(x, [2]), x)
    return tf.ensure_shape(x, static_shape)
