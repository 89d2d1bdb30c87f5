"""Data sets by name, from .npz files and from image folders; tf.data pipelines with the papers' augmentation."""

from keras_esq.data.augment import Augmentation
from keras_esq.data.dataset import Dataset
from keras_esq.data.folder import from_folder
from keras_esq.data.load import NAMES, load
from keras_esq.data.npz import from_npz
from keras_esq.data.pipeline import pipeline, steps_per_epoch
from keras_esq.data.resolve import resolve

__all__ = [
    "NAMES",
    "Augmentation",
    "Dataset",
    "from_folder",
    "from_npz",
    "load",
    "pipeline",
    "resolve",
    "steps_per_epoch",
]
