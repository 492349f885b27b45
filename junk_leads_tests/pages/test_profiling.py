"""Data profiles: the page about a drop's raw leads, and how to get what makes it."""

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

from junk_leads.home import Home
from junk_leads.steps.pages import profiling
from junk_leads_tests.conftest import Outcome

CLI = Callable[..., Outcome]


def test_without_the_extra_one_line_says_how_to_install_it(
    junk_leads: CLI, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but_the_profiler(name: str) -> ModuleSpec | None:
        return None if name == "ydata_profiling" else importlib.util.find_spec(name)

    monkeypatch.setattr(profiling, "find_spec", but_the_profiler)
    refused = junk_leads("profile", "history")
    assert (refused.code, refused.out) == (1, "")
    assert refused.failures == [
        "data profiles need ydata-profiling, which is not installed; install it with: pip install --constraint "
        "constraints.txt '.[profile]'"
    ]


@pytest.mark.xdist_group("home")
@pytest.mark.filterwarnings("ignore")  # what the profiler's own dependencies say
def test_a_profile_is_a_page_about_every_column_of_a_drop(junk_leads: CLI, trained_home: Home) -> None:
    pytest.importorskip("ydata_profiling", reason="the extra `profile` is not installed", exc_type=ImportError)
    refused = junk_leads("profile", "nothing", "--json")
    assert (refused.code, list(trained_home.reports.glob("*.profile.html"))) == (1, [])
    assert refused.failures[0].startswith("raw_leads does not hold drop 'nothing': ")

    done = junk_leads("profile", "new", "--json")
    page = trained_home.reports / "new.profile.html"
    assert done.failures == []  # and nothing but progress beside them
    assert (done.code, done.json) == (0, {"drop": "new", "profile": str(page)})
    text = page.read_text(encoding="utf-8")
    assert "Raw leads of new" in text
    assert "total_leads_droppped" in text
    assert "400" in text
    for outside in ('src="http', 'rel="stylesheet" href="http'):
        assert outside not in text
