"""How robust a model is, and where its errors grow."""

from keras_esq.evaluation.amplification import AmplificationProfile, error_amplification
from keras_esq.evaluation.intervals import wilson_interval
from keras_esq.evaluation.plots import plot_amplification, plot_report
from keras_esq.evaluation.report import ReportRow, RobustnessReport
from keras_esq.evaluation.robustness import evaluate_robustness
from keras_esq.evaluation.sets import attack_set

__all__ = [
    "AmplificationProfile",
    "ReportRow",
    "RobustnessReport",
    "attack_set",
    "error_amplification",
    "evaluate_robustness",
    "plot_amplification",
    "plot_report",
    "wilson_interval",
]
