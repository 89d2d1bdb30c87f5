"""Reference networks."""

from keras_esq.models.resnet import resnet_cifar
from keras_esq.models.small_cnn import small_cnn

__all__ = ["resnet_cifar", "small_cnn"]
