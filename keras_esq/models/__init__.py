"""Reference networks."""

from keras_esq.models.small_cnn import small_cnn

__all__ = ["small_cnn"]
