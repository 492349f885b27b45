"""Data profiles: a page about every column of some leads.

What lives here: writing the page. What does not: which leads (`launching.py`).
"""

import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from junk_leads.errors import JunkLeadsError

if TYPE_CHECKING:
    import pandas as pd


def refuse_without_profiler() -> None:
    """Raise JunkLeadsError when what makes the pages is not installed."""
    if find_spec("ydata_profiling") is None:
        raise JunkLeadsError(
            "data profiles need ydata-profiling, which is not installed; "
            "install it with: pip install --constraint constraints.txt '.[profile]'"
        )


def write_profile(leads: "pd.DataFrame", title: str, path: Path) -> None:
    """Write an HTML page about every column of n leads: types, missing values, extremes, distributions.

    It needs nothing from the web. It shows leads' data (frequent and extreme values), so it is as private as they are.
    """
    refuse_without_profiler()
    with redirect_stderr(io.StringIO()):  # one of its progress bars takes no telling
        from ydata_profiling import ProfileReport

        ProfileReport(leads, title=title, minimal=True, progress_bar=False).to_file(path, silent=True)
