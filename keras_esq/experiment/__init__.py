"""The paper's experiments, and others like them: models by recipe, tables, figures, findings.

report = esq.experiment.run("small", "small-mnist")
print(report)
print(esq.experiment.compare("small-mnist", "small-mnist-wide").to_text())
"""

from keras_esq.experiment.comparing import compare
from keras_esq.experiment.config import Config, config_from
from keras_esq.experiment.presets_in import PRESETS, read_preset
from keras_esq.experiment.report import Report, write_report
from keras_esq.experiment.results import Results, read_results
from keras_esq.experiment.running import load_config, run

__all__ = [
    "PRESETS",
    "Config",
    "Report",
    "Results",
    "compare",
    "config_from",
    "load_config",
    "read_preset",
    "read_results",
    "run",
    "write_report",
]
