"""LightGBM has one caller at a time, however many threads there are; it ends the process otherwise, now and then."""

import ast
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import junk_leads
from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.boosting import Booster, fit, read_booster, refuse_unknown_parameters
from junk_leads.steps.learning.evaluation import evaluate
from junk_leads_tests.learning.test_validation import ADAPTING, AIM, ENCODER, some_leads

NAMES = ("a", "b", "c")
ROWS = np.random.default_rng(1).integers(0, 4, size=(400, 3))
LABELS = (ROWS[:, 0] > 1).astype(int)
PARAMETERS = {"objective": "binary", "verbosity": -1, "num_leaves": 7}


class Watched:
    """LightGBM's library, which counts the calls that are under way at once."""

    def __init__(self, library: Any) -> None:
        self.library, self.lock = library, threading.Lock()
        self.calls = self.under_way = self.most = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.library, name)
        # what is freed belongs to nobody else any more: the garbage collector frees in any thread
        return self.counted(found) if name.startswith("LGBM_") and not name.endswith("Free") else found

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            with self.lock:
                self.calls, self.under_way = self.calls + 1, self.under_way + 1
                self.most = max(self.most, self.under_way)
            try:
                return call(*arguments)
            finally:
                with self.lock:
                    self.under_way -= 1

        return counted_call


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Watched:
    import lightgbm.basic

    watched = Watched(lightgbm.basic._LIB)
    monkeypatch.setattr(lightgbm.basic, "_LIB", watched)
    return watched


def fitted(rounds: int = 5, **parameters: Any) -> Booster:
    return fit(ROWS, LABELS, np.ones(len(ROWS)), NAMES, {**PARAMETERS, **parameters}, rounds)


def test_fault_61_while_a_model_is_judged_and_others_score_one_call_is_under_way(
    library: Watched, tmp_path: Path
) -> None:
    booster, over, errors = fitted(), threading.Event(), []
    booster.save_model(tmp_path / "model.txt")

    def score() -> None:
        try:
            while not over.is_set():
                read_booster(tmp_path / "model.txt").predict(ROWS)
                booster.predict(ROWS, pred_contrib=True)
                assert booster.num_trees() == len(booster.dump_model()["tree_info"]) == 5
                assert booster.feature_importance("gain").shape == (3,)
                assert booster.model_to_string()
        except BaseException as error:
            errors.append(error)

    scoring = [threading.Thread(target=score) for _ in range(3)]
    for thread in scoring:
        thread.start()
    try:
        data = some_leads(1_500)
        evaluate(data, ENCODER, ADAPTING, AIM, grades=model_settings()["grades"], share=0.2, seed=1)
    finally:
        over.set()
        for thread in scoring:
            thread.join()
    assert errors == []
    assert library.calls > 500
    assert library.most == 1


def test_an_evaluation_takes_one_thread(library: Watched) -> None:
    """Others are not only kept waiting: there are none."""
    threads: set[int] = set()
    counted = library.counted
    library.counted = lambda call: counted(lambda *given: (threads.add(threading.get_ident()), call(*given))[1])  # type: ignore[method-assign]
    evaluate(some_leads(1_500), ENCODER, ADAPTING, AIM, grades=model_settings()["grades"], share=0.2, seed=1)
    assert threads == {threading.get_ident()}


MANY = """
import threading
from pathlib import Path
from junk_leads.steps.boosting import read_booster
from junk_leads_tests.learning.test_boosting import ROWS, fitted

def train(number, path):
    for _ in range(25):
        booster = fitted(num_threads=1 + 3 * (number % 2))
        booster.save_model(path)
        read_booster(path).predict(ROWS)

import sys
threads = [threading.Thread(target=train, args=(n, Path(sys.argv[1]) / str(n))) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("alive")
"""


def test_fault_61_a_hundred_trainings_in_four_threads_never_end_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_no_other_module_knows_lightgbm() -> None:
    package = Path(junk_leads.__file__).parent
    knowing = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "lightgbm" for name in names + origin):
                knowing.append(path.relative_to(package).as_posix())
    assert set(knowing) == {"steps/boosting.py"}


def test_a_booster_read_from_its_file_predicts_the_same_to_the_bit(tmp_path: Path) -> None:
    booster = fitted()
    booster.save_model(tmp_path / "model.txt")
    again = read_booster(tmp_path / "model.txt")
    assert again.predict(ROWS).tolist() == booster.predict(ROWS).tolist()
    assert again.feature_name() == list(NAMES)


FITTED = """
import hashlib, sys
if "first" in sys.argv:
    import sklearn
import numpy as np
from junk_leads.steps.boosting import fit
rows = np.random.default_rng(1).integers(0, 4, size=(400, 3))
model = fit(rows, rows[:, 0] > 1, np.ones(400), "abc", {"objective": "binary", "verbosity": -1}, 40)
print(hashlib.sha256(model.model_to_string().encode()).hexdigest(), "sklearn.base" in sys.modules)
from sklearn.base import BaseEstimator
"""


def test_scikit_learn_is_left_out_of_lightgbms_import_alone_and_the_model_is_the_same() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", FITTED, *first], capture_output=True, text=True, check=True
        ).stdout.split()
        for first in ((), ("first",))
    ]
    (model, is_there), (same, was_there) = told
    assert (is_there, was_there) == ("False", "True")
    assert model == same


NAMED = """
import sys
from junk_leads.steps import boosting
boosting.warm_up()
print("numpy.f2py" in sys.modules)
import numpy
print(numpy.f2py.__name__, numpy.f2py.get_include().endswith("src"))
"""


def test_a_reader_of_fortran_is_left_out_of_lightgbms_import_and_is_there_for_who_asks() -> None:
    done = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "numpy.f2py", "True"]


HIDDEN = """
import importlib, sys, threading
from junk_leads.steps.boosting import _NoScikitLearn
sys.meta_path.insert(0, _NoScikitLearn())
thread = threading.Thread(target=lambda: importlib.import_module("sklearn"))
try:
    import sklearn
except ImportError as missing:
    print(missing.name)
thread.start()
thread.join()
print("sklearn" in sys.modules)
"""


def test_scikit_learn_is_hidden_from_one_thread_alone() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sklearn", "True"]


# Parameters


@pytest.mark.parametrize("name", ["num_leaves", "max_leaf", "learning_rate", "eta", "lambda_l2", "verbosity"])
def test_a_parameter_goes_by_any_of_lightgbms_names(name: str) -> None:
    refuse_unknown_parameters([name])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_leafs", ", meant is perhaps num_leaf or num_leaves or "), ("xyzzy", "; correct its name and train again")],
)
def test_fault_71_a_parameter_that_lightgbm_does_not_have_is_refused_with_those_that_are_near(
    name: str, meant: str
) -> None:
    with pytest.raises(TrainingRefused) as refused:
        refuse_unknown_parameters(["eta", name])
    assert str(refused.value).startswith(f"LightGBM has no parameter {name!r}{meant}")
