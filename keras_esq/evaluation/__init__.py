"""How robust a model is, whether that can be believed, and where its errors grow."""

from keras_esq.evaluation.allocation import allocate_bits
from keras_esq.evaluation.amplification import AmplificationProfile, error_amplification
from keras_esq.evaluation.corruptions import CORRUPTIONS, corrupt
from keras_esq.evaluation.curve import AccuracyCurve, accuracy_curve
from keras_esq.evaluation.gallery import plot_examples
from keras_esq.evaluation.intervals import paired_interval, wilson_interval
from keras_esq.evaluation.layer_sensitivity import Sensitivity, SensitivityRow, sensitivity
from keras_esq.evaluation.masking import masking_audit
from keras_esq.evaluation.masking_report import MaskingAudit, MaskingCheck
from keras_esq.evaluation.noise import RandomNoise
from keras_esq.evaluation.plots import plot_accuracy_curve, plot_amplification, plot_report, plot_transfer
from keras_esq.evaluation.report import Examples, ReportRow, RobustnessReport
from keras_esq.evaluation.robustness import evaluate_robustness
from keras_esq.evaluation.sets import attack_set
from keras_esq.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "CORRUPTIONS",
    "AccuracyCurve",
    "AmplificationProfile",
    "Examples",
    "MaskingAudit",
    "MaskingCheck",
    "RandomNoise",
    "ReportRow",
    "RobustnessReport",
    "Sensitivity",
    "SensitivityRow",
    "TransferMatrix",
    "accuracy_curve",
    "allocate_bits",
    "attack_set",
    "corrupt",
    "error_amplification",
    "evaluate_robustness",
    "masking_audit",
    "paired_interval",
    "plot_accuracy_curve",
    "plot_amplification",
    "plot_examples",
    "plot_report",
    "plot_transfer",
    "sensitivity",
    "transfer_matrix",
    "wilson_interval",
]
