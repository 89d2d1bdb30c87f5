"""Figures that the paper states, as far as our copy of it has them; in %.

Source: [ESQ] Z. Tang, Y. Dong, H. Su, "Error-Silenced Quantization: Bridging Robustness and Compactness", 2020.
All are of ResNet-152 on CIFAR-100.
"""

from __future__ import annotations

SETTING = "paper, ResNet-152 on CIFAR-100"

# Table 1: accuracy under FGSM at five growing strengths, which our copy does not name.
TABLE_1 = {
    "NF": (36.19, 27.96, 20.76, 14.53, 7.79),
    "NVB": (35.38, 21.07, 11.79, 7.59, 4.99),
    "AF": (47.22, 43.65, 36.63, 24.60, 11.16),
    "AVB": (40.84, 28.34, 19.00, 12.74, 7.74),
}

# Table 3a: accuracy under white-box attacks; the rows that our copy has.
TABLE_3A = {
    "NF": {"clean": 73.20, "FGSM": 7.77, "PGD": 0.03, "DDN": 0.01, "C&W": 0.34},
    "AF": {"clean": 50.80, "FGSM": 11.15, "PGD": 22.15, "DDN": 17.37, "C&W": 20.62},
    "NEB": {"clean": 55.54, "FGSM": 12.05, "PGD": 19.17, "DDN": 12.35, "C&W": 18.48},
    "AEB": {"clean": 54.09, "FGSM": 13.36, "PGD": 20.49, "DDN": 13.74, "C&W": 19.83},
}

# What the paper says in its text, by the finding that it belongs to.
CLAIMS = {
    "vanilla": "AVB falls to nearly nothing under PGD",
    "pairing": "AEB keeps 0.925 of AF's accuracy under PGD",
    "amplification": "AVB's is up to 4 times AF's; with pairing it is below the full-precision model's",
    "adversarial": "adversarial training while quantizing loses 5.5 points under PGD",
}
