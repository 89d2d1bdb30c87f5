"""The Lipschitz regularizer of Defensive Quantization."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._checks import check_nonnegative
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights


def orthogonality(matrix: Any) -> Any:
    """||W^T W - I||_F^2 over the filters, summed: 0 where a layer amplifies nothing and loses nothing.

    With more filters than inputs, where W^T W can't be I, it is ||W W^T - I||_F^2, over the same singular values.

    Args:
        matrix: (..., inputs, filters); leading axes are matrices of their own.

    Returns:
        Scalar.
    """
    inputs, filters = matrix.shape[-2:]
    gram = tf.matmul(matrix, matrix, transpose_a=filters <= inputs, transpose_b=filters > inputs)
    return tf.reduce_sum(tf.square(gram - tf.eye(min(inputs, filters), dtype=matrix.dtype)))


def as_matrix(weight: Any, axis: int | tuple[int, ...] = -1) -> Any:
    """A kernel as the matrix (..., inputs, filters) of `orthogonality`.

    Args:
        weight: kernel of a layer.
        axis: of its filters. Two of them are a depthwise kernel's channels and multiplier: a matrix a channel.
    """
    rank = len(weight.shape)
    kept = [a % rank for a in ((axis,) if isinstance(axis, int) else axis)]
    rest = [a for a in range(rank) if a not in kept]
    moved = tf.transpose(weight, [*kept[:-1], *rest, kept[-1]])
    return tf.reshape(moved, [*(weight.shape[a] for a in kept[:-1]), -1, weight.shape[kept[-1]]])


@keras.saving.register_keras_serializable(package="keras_esq")
class Orthogonality(keras.regularizers.Regularizer):
    """Adds beta / 2 * sum over layers of ||W^T W - I||_F^2, so that no layer amplifies noise.

        esq.ErrorSilencedModel(low_bit, regularizer=esq.training.Orthogonality(beta=1e-3))

    There it is put on every low-bit kernel, as quantized, which is what the network multiplies with; the gradient goes
    straight through to the latent weights. It is part of `loss` and, as regularization is in Keras, of `val_loss`. It
    is a Keras regularizer too: `kernel_regularizer=Orthogonality(beta=1e-3)` on layers of a float network. A kernel is
    taken as a matrix with a column for each filter; a BatchNormalization behind it undoes what is gained in scale.

    Args:
        beta: weight, >= 0. It depends on the network: begin where the term is a tenth of the loss.

    Raises:
        TypeError, ValueError: for a beta that is no number >= 0.

    Reference: Lin et al., "Defensive Quantization: When Efficiency Meets Robustness", ICLR 2019 (arXiv:1904.08444).
    """

    def __init__(self, beta: float) -> None:
        self.beta = check_nonnegative("beta", beta)

    def __call__(self, x: Any) -> Any:
        """The term of one kernel with its filters on the last axis."""
        return self.beta / 2 * orthogonality(as_matrix(tf.convert_to_tensor(x)))

    def of_network(self, network: Any) -> Any:
        """The sum over the low-bit weights, all filters quantized."""
        terms = [orthogonality(as_matrix(w.quantized, w.quantizer.axis)) for w in low_bit_weights(network)]
        return self.beta / 2 * tf.add_n(terms)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"beta": self.beta}


def check_regularizer(regularizer: Any, network: Any) -> None:
    """Raise TypeError or ValueError for what can't be put on the low-bit layers of the network."""
    if regularizer is None:
        return
    if not isinstance(regularizer, Orthogonality):
        raise TypeError(f"Expected regularizer as esq.training.Orthogonality(beta=...). Received {regularizer!r}.")
    if not low_bit_weights(network):
        raise ValueError(
            f"Expected a low-bit network for regularizer=. Received {network.name!r}, which has only float weights. "
            "Give its layers kernel_regularizer=esq.training.Orthogonality(beta=...)."
        )
