"""LightGBM, one call at a time: the only module that imports it.

What lives here: boosters, whose every call has LightGBM to itself in this process, fitting one and reading one from a
file. What does not: which leads and parameters (`learning/`), what a probability becomes (`scoring/`).

LightGBM keeps state for the whole process, its number of threads among it: of two calls side by side in threads, now
and then one ends the process by a segmentation fault. Whoever needs several at once takes processes.
"""

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.errors import TrainingRefused

if TYPE_CHECKING:
    import lightgbm as lgb

_ALONE = threading.RLock()


class Booster:
    """A LightGBM booster under its own methods' names, each of them waiting until no other call is under way.

    Of one that is given as its text LightGBM is imported, and reads it, when it is first asked for something.
    """

    def __init__(self, own: "lgb.Booster | str") -> None:
        self._read = own
        self._trees: dict[str, Any] | None = None

    def __getstate__(self) -> str:
        return self.model_to_string()

    def __setstate__(self, text: str) -> None:
        self._read, self._trees = text, None

    @property
    def _own(self) -> "lgb.Booster":
        if isinstance(self._read, str):
            self._read = _lightgbm().Booster(model_str=self._read)
        return self._read

    def predict(self, rows: np.ndarray, **options: Any) -> np.ndarray:
        """What LightGBM predicts of n rows (n x f): probabilities (n,), or what `options` ask for."""
        with _ALONE:
            return np.asarray(self._own.predict(rows, **options))

    def dump_model(self) -> dict[str, Any]:
        """The trees as dictionaries; they are made once."""
        with _ALONE:
            if self._trees is None:
                self._trees = self._own.dump_model()
            return self._trees

    def model_to_string(self) -> str:
        """The model as text, the same bytes as in its file."""
        with _ALONE:
            return str(self._own.model_to_string())

    def save_model(self, path: Path) -> None:
        """Write the model as text."""
        with _ALONE:
            self._own.save_model(path)

    def feature_importance(self, kind: str) -> np.ndarray:
        """The features' `gain` or `split` counts, shape (f,)."""
        with _ALONE:
            return np.asarray(self._own.feature_importance(kind))

    def feature_name(self) -> list[str]:
        """The f features' names, in the order of the columns."""
        with _ALONE:
            return list(self._own.feature_name())

    def num_trees(self) -> int:
        """How many trees there are."""
        with _ALONE:
            return int(self._own.num_trees())


class _NoScikitLearn(MetaPathFinder):
    """scikit-learn as if it were not installed, for one thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        """Nothing; raises ModuleNotFoundError for scikit-learn."""
        if name == "sklearn" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(name=name)


@cache
def _lightgbm() -> Any:
    """LightGBM without its estimators, for which alone it would import scikit-learn: more than half of its import.

    Without numpy.f2py as well, a reader of Fortran: scipy takes all of numpy's names, and with this one imports it.
    """
    hidden, names = _NoScikitLearn(), vars(np)
    is_left_out = "f2py" not in names
    if is_left_out:
        names["f2py"] = None
    sys.meta_path.insert(0, hidden)
    try:
        import lightgbm
    finally:
        sys.meta_path.remove(hidden)
        if is_left_out:
            del names["f2py"]  # numpy imports it when it is next asked for
    return lightgbm


def warm_up() -> None:
    """Import LightGBM, for a process that will need it."""
    _lightgbm()


def fit(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    parameters: Mapping[str, Any],
    rounds: int,
    *,
    after: Booster | None = None,
) -> Booster:
    """A booster of `rounds` trees fitted on r weighted rows (r x f, names of the f); those of `after` come first."""
    from scipy.sparse import csr_matrix

    with _ALONE:
        lgb = _lightgbm()
        dataset = lgb.Dataset(
            csr_matrix(rows, dtype=np.float32),  # few features of a lead are not 0; the same bytes, a tenth sooner
            label=labels,
            weight=weights,
            feature_name=list(names),
            params=dict(parameters),
            free_raw_data=False,
        )
        return Booster(lgb.train(dict(parameters), dataset, rounds, init_model=after and after._own))


def read_booster(path: Path) -> Booster:
    """The booster in a text file. LightGBM ends the whole process on a damaged one: verify it before."""
    return Booster(path.read_text(encoding="utf-8"))


def refuse_unknown_parameters(names: Iterable[str]) -> None:
    """Raise TrainingRefused for a parameter that LightGBM does not have; it would only warn, and leave it out."""
    from difflib import get_close_matches

    for name in names:
        if name not in _parameters():
            near = get_close_matches(name, sorted(_parameters()), n=3)
            meant = f", meant is perhaps {' or '.join(near)}" if near else ""
            raise TrainingRefused(f"LightGBM has no parameter {name!r}{meant}; correct its name and train again")


@cache
def _parameters() -> frozenset[str]:
    """Every name that LightGBM knows a parameter by, as its library tells them."""
    with _ALONE:
        aliases: dict[str, list[str]] = _lightgbm().basic._ConfigAliases._get_all_param_aliases()
    return frozenset(aliases).union(*aliases.values())
