"""The history of drops: the state of a delivery, and how it is shown."""

import base64
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import duckdb
import pytest

from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.pages.history import MOST_SHOWN, as_image, history_lines, history_markdown, history_plot
from junk_leads.steps.watching.history import HISTORY, history_row
from junk_leads.steps.watching.overlap import count_known_leads, delivered_again
from junk_leads_tests.conftest import SCHEMA, leads_of

AT = datetime(2026, 1, 2, 3, 4)
SCORED = {"rows_read": 10, "rejected": 1, "kept": 8, "share_of_ones": 0.25, "model_version": "3", "labelled": False}


def row(status: str = "accepted", figures: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    delivery = {
        "number": 1,
        "drop": "july",
        "content": "sha",
        "file_name": "july.csv",
        "status": status,
        "reason": more.pop("reason", ""),
        "at": AT,
    }
    given: dict[str, Any] = {"is_newest_accepted": True, "blocked": "", "warnings": (), "psi": None, **more}
    return history_row(delivery, figures, given.pop("former", None), **given)


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        (row("waiting"), "waiting", None),
        (row("failed", reason="why"), "failed", "why"),
        (row("refused", reason="why"), "refused", "why"),
        (row(), "accepted", None),
        (row(figures=SCORED), "scored", None),
        (row(figures=SCORED, blocked="codes look renamed"), "blocked", "codes look renamed"),
        (row(figures=SCORED, is_newest_accepted=False), "replaced", None),
    ],
)
def test_a_delivery_has_one_state_and_its_reason(told: dict[str, Any], state: str, reason: str | None) -> None:
    assert (told["state"], told["reason"]) == (state, reason)
    assert list(told) == HISTORY.names


def test_what_was_known_of_a_delivery_stays_when_the_tables_hold_another() -> None:
    former = row(figures=SCORED, psi={"city_mapped": 0.3})
    told = row(former=former, is_newest_accepted=False)
    assert (told["rows_read"], told["duplicates"], told["share_of_ones"]) == (10, 1, 0.25)


def test_duplicates_are_what_is_neither_kept_nor_rejected() -> None:
    assert row(figures=SCORED)["duplicates"] == 1
    assert row("refused", {"rows_read": 10, "rejected": 5})["duplicates"] is None


def test_a_line_says_state_drop_and_counts_and_below_it_what_is_wrong() -> None:
    figures = {**SCORED, "known_leads": 3, "known_labelled_leads": 2, "outcomes": 7, "outcome_auc": 0.8123}
    lines = history_lines([row(figures=figures, warnings=["predictions, c: found"]), row("refused", reason="why")])
    assert lines.splitlines() == [
        "2026-01-02 03:04  scored     july  10 rows  1 duplicates  1 rejected  3 known already  2 of them labelled  "
        "25.0% 1s by version 3  AUC 0.812 on 7 outcomes",
        "    predictions, c: found",
        "2026-01-02 03:04  refused    july",
        "    why",
    ]


def test_the_table_in_the_ui_has_the_newest_first_is_short_and_inert() -> None:
    rows = [row("refused", reason=f"<b>{n}|x") for n in range(MOST_SHOWN + 5)]
    table = history_markdown(rows)
    lines = table.splitlines()
    assert f"&#60;b&#62;{MOST_SHOWN + 4}&#124;x" in lines[2]
    assert len([line for line in lines if line.startswith("| 2026")]) == MOST_SHOWN
    assert lines[-1] == "and 5 older deliveries in the table"
    assert "<b>" not in table


def test_the_plot_is_an_image_that_holds_itself_with_a_point_for_each_scored_delivery() -> None:
    rows = [row(figures=SCORED), row("refused", reason="<why>"), row(figures={**SCORED, "share_of_ones": 0.5})]
    svg = ElementTree.fromstring(history_plot(rows))
    name = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f"{name}circle")) == 4  # two shares of 1s and two of rejected rows
    assert [text.text for text in svg.findall(f"{name}text") if text.text == "✕"] == ["✕"]
    image = as_image(history_plot(rows), "words")
    assert image.startswith("![words](data:image/svg+xml;base64,")
    assert b"<svg" in base64.b64decode(image.partition("base64,")[2][:-1])


@pytest.mark.parametrize("rows", [[], [row()]])
def test_a_history_of_little_is_shown_too(rows: list[dict[str, Any]]) -> None:
    ElementTree.fromstring(history_plot(rows))
    assert history_markdown(rows).startswith("| delivered |")


def test_known_leads_are_those_the_same_in_every_column_but_the_label(con: duckdb.DuckDBPyConnection) -> None:
    def cleaned(*rows: dict[str, Any], drop: str) -> duckdb.DuckDBPyRelation:
        made = clean(con, leads_of(con, *rows, drop=drop), SCHEMA)  # noqa: F841  DuckDB finds it by this name
        con.execute(f"CREATE TABLE {drop} AS SELECT * FROM made")
        return con.table(drop)

    others = cleaned(
        *({"syllabus": 1}, {"syllabus": 2, "app_complete_flag": None}, {"syllabus": 3}, {"city_mapped": "pune"}),
        drop="b",
    )
    here = cleaned(
        *({"syllabus": 1, "app_complete_flag": None}, {"syllabus": 2}, {"syllabus": 9}, {"city_mapped": "Pune "}),
        drop="a",
    )
    assert count_known_leads(con, here, others, SCHEMA) == (3, 2)
    assert count_known_leads(con, here, others.limit(0), SCHEMA) == (0, 0)


def test_of_the_same_lead_in_several_labelled_drops_the_one_delivered_last_counts(
    con: duckdb.DuckDBPyConnection,
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "june": [{}, {"city_mapped": "pune"}, {"city_mapped": "agra"}],
        "july": [{"app_complete_flag": 0}, {"city_mapped": "pune", "app_complete_flag": None}],
        "may": [{"city_mapped": "agra"}],
    }
    for drop, of in rows.items():
        made = clean(con, leads_of(con, *of, drop=drop), SCHEMA)  # noqa: F841  DuckDB finds it by this name
        con.execute(f"CREATE TABLE {drop} AS SELECT * FROM made")
    leads = con.sql("SELECT * FROM june UNION ALL SELECT * FROM july UNION ALL SELECT * FROM may")
    deliveries = con.sql("SELECT * FROM (VALUES ('may', 1), ('june', 2), ('july', 3)) AS t(drop, delivered_at)")
    found = delivered_again(con, leads, deliveries, SCHEMA).order("ALL").fetchall()
    # pune was delivered last without a label: what is known of it was delivered in june
    assert found == [("june", 1), ("may", 1)]
