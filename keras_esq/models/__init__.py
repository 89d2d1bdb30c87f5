"""Reference networks: functions that return functional tf_keras models whose output is logits."""

from keras_esq.models.ds_cnn import ds_cnn
from keras_esq.models.names import NAMES, build
from keras_esq.models.resnet import resnet152_cifar, resnet_cifar
from keras_esq.models.small_cnn import small_cnn
from keras_esq.models.vgg9 import vgg9
from keras_esq.models.wide_resnet import wide_resnet

__all__ = ["NAMES", "build", "ds_cnn", "resnet152_cifar", "resnet_cifar", "small_cnn", "vgg9", "wide_resnet"]
