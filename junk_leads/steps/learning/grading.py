"""Score and grade: a probability as people use it.

What lives here: both, and the grades there are. What does not: the probability (`calibration.py`) and where a grade
begins, which a model carries (`reference/model_params.yaml`).
"""

from collections.abc import Mapping

import numpy as np

GRADES = ("A", "B", "C", "D")


def score_of(probabilities: np.ndarray) -> np.ndarray:
    """Scores 1 to 99, rising with probability."""
    scores: np.ndarray = np.clip(np.rint(probabilities * 100), 1, 99).astype(np.int8)
    return scores


def grade_of(probabilities: np.ndarray, grades: Mapping[str, float]) -> np.ndarray:
    """Grades A to D; `grades` gives the least probability of A, B and C."""
    bounds = np.array([grades[g] for g in GRADES[:-1]])
    grade: np.ndarray = np.array(GRADES)[(probabilities[:, None] < bounds).sum(axis=1)]
    return grade
