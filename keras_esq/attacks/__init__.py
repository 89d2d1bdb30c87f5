"""Adversarial attacks: frozen settings, called as `attack(model, x, y) -> x_adv`."""

from keras_esq.attacks.base import Attack
from keras_esq.attacks.bim import BIM
from keras_esq.attacks.fgsm import FGSM
from keras_esq.attacks.gradient import GradientAttack, IterativeAttack
from keras_esq.attacks.logits import class_logits, head_kind, logits_fn, logits_of
from keras_esq.attacks.mim import MIM
from keras_esq.attacks.pgd import PGD

__all__ = [
    "BIM",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "GradientAttack",
    "IterativeAttack",
    "class_logits",
    "head_kind",
    "logits_fn",
    "logits_of",
]
