"""Adversarial attacks: frozen settings, called as `attack(model, x, y) -> x_adv`."""

from keras_esq.attacks.apgd import APGD
from keras_esq.attacks.autoattack import AutoAttack
from keras_esq.attacks.base import Attack
from keras_esq.attacks.bim import BIM
from keras_esq.attacks.boundary import Boundary
from keras_esq.attacks.carlini_wagner import CarliniWagner
from keras_esq.attacks.ddn import DDN
from keras_esq.attacks.eager import BlackBoxAttack, EagerAttack
from keras_esq.attacks.fab import FAB
from keras_esq.attacks.fgsm import FGSM, fast_fgsm
from keras_esq.attacks.gradient import GradientAttack, IterativeAttack, WhiteBoxAttack
from keras_esq.attacks.logits import class_logits, head_kind, logits_fn, logits_of
from keras_esq.attacks.mim import MIM
from keras_esq.attacks.minimal import MinimalAttack
from keras_esq.attacks.nattack import NAttack
from keras_esq.attacks.pgd import PGD
from keras_esq.attacks.result import AttackResult
from keras_esq.attacks.square import Square
from keras_esq.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "FAB",
    "FGSM",
    "MIM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BlackBoxAttack",
    "Boundary",
    "CarliniWagner",
    "EagerAttack",
    "GradientAttack",
    "IterativeAttack",
    "MinimalAttack",
    "NAttack",
    "Square",
    "Transfer",
    "WhiteBoxAttack",
    "class_logits",
    "fast_fgsm",
    "head_kind",
    "logits_fn",
    "logits_of",
]
