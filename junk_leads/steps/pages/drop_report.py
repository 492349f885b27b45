"""The report of a scored drop: one page for whoever decides whom to call, and whether to believe the scores.

What lives here: from a drop's figures to one self-contained page, its plots and its essentials as Markdown. What does
not: the figures (`stores/drops/reporting.py`), and the page's words and looks (`reference/drop_report.html`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from junk_leads.reference import read_text
from junk_leads.steps.learning.grading import GRADES
from junk_leads.steps.pages.sentences import percent
from junk_leads.steps.pages.summary import Meaning
from junk_leads.steps.scoring.reasons import city_name
from junk_leads.steps.watching.trust import TITLES

SHOWN = 20  # leads to call that are on the page
CALLED = (0.1, 0.2, 0.5)  # shares of the best leads, if these were called


@dataclass(frozen=True)
class Believed:
    """What a scored drop's scores are, and what there is against them.

    `figures` are those of the summary, with `known_leads` and `known_labelled_leads`; `moved` is the PSI by column,
    `shares` of each of these columns the most frequent values with their shares in training and now.
    """

    figures: Mapping[str, Any]
    meaning: Meaning
    warnings: Sequence[str]
    notes: Sequence[str]
    blocked: str
    code_map: str
    moved: Mapping[str, float]
    shares: Mapping[str, Sequence[tuple[str, float, float]]]


@dataclass(frozen=True)
class DropFacts(Believed):
    """What a report tells of a drop, collected; shares and probabilities are 0 to 1.

    `best` are the leads to call first; `scores` the leads by ten points of score, `called` the applications expected
    among the best shares of CALLED; `channels` dicts with channel, leads, expected (applications) and zeros, best
    first; `usual_psi` the PSI that is usual; `alike` pairs of city names that look like one, with their leads; the
    values of `shares` are as people say them.
    """

    missing_cities: float
    unknown: Mapping[str, float]
    alike: Sequence[tuple[str, int, str, int]]
    best: Sequence[Mapping[str, Any]]
    scores: Sequence[int]
    called: Sequence[float]
    channels: Sequence[Mapping[str, Any]]
    usual_psi: float
    band: tuple[float, float]
    model: Mapping[str, Any] = field(default_factory=dict)


def verdict(facts: Believed) -> str:
    """Whether the scores can be believed, in one sentence."""
    leads = facts.figures["lead_count"]
    if not leads:
        return "There is nothing to believe: the drop has no leads."
    if facts.blocked:
        return (
            "Do not rely on these scores: the drop contradicts what the model was taught, and was scored all the same."
        )
    if facts.warnings:
        many = "one thing warns" if len(facts.warnings) == 1 else f"{len(facts.warnings)} things warn"
        return f"Believe the order of these leads with care: {many}, told below."
    if facts.notes:
        return "These scores are as good as the model, as far as can be told: " + facts.notes[0]
    return "These scores can be believed: the leads look like those that the model learned from."


def report_page(facts: DropFacts) -> str:
    """The page, which asks the network for nothing and holds every value as text."""
    figures, meaning = facts.figures, facts.meaning
    grades = [
        {
            "grade": grade,
            "leads": figures[f"grade_{grade.lower()}"],
            "conversion": meaning.grades.get(grade),
        }
        for grade in GRADES
    ]
    usual = figures["mean_probability"]
    good, bad = (
        [row for row in facts.channels if (row["expected"] / row["leads"] >= usual) == better]
        for better in (True, False)
    )
    return page_of(
        "drop_report.html",
        facts=facts,
        figures=figures,
        verdict=verdict(facts),
        is_believed=bool(figures["lead_count"]) and not facts.warnings and not facts.blocked,
        grades=grades,
        called=[
            (share, round(share * figures["lead_count"]), expected)
            for share, expected in zip(CALLED, facts.called, strict=True)
        ],
        best_channels=good[:5],
        worst_channels=bad[:-6:-1],
        scores_plot=_scores_plot(facts.scores),
        drift_plots=[
            (TITLES[column], psi, _shares_plot(TITLES[column], facts.shares[column]))
            for column, psi in sorted(facts.moved.items(), key=lambda item: -item[1])
            if column in facts.shares
        ],
        titles=TITLES,
    )


def report_markdown(facts: DropFacts) -> str:
    """The essentials, as Dagster's UI shows them; without a lead's values."""
    figures = facts.figures
    called = ", ".join(
        f"the best {share:.0%} about {expected:,.0f}" for share, expected in zip(CALLED, facts.called, strict=True)
    )
    return (
        f"**{verdict(facts)}**\n\n"
        f"{figures['lead_count']:,} leads, {figures['share_of_ones']:.2%} kept for calling (usual "
        f"{facts.band[0]:.0%} to {facts.band[1]:.0%}). Applications expected: "
        f"{figures['applications_of_ones'] + figures['applications_of_zeros']:,.0f} in all; if called, {called}."
    )


def index_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The index over the reports of all drops, newest first: drop, scored_at, leads, ones, expected, warnings, page."""
    return page_of("drop_reports.html", rows=rows)


def page_of(template: str, **told: Any) -> str:
    """A page from a template of the reference data; every value that is put into it is text there."""
    loader = FunctionLoader(read_text)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "whole": lambda value: f"{value:,.0f}", "city": city_name}
    return environment.get_template(template).render(**told)


_WIDTH, _SMALL, _LEFT = 460, 300, 110
_LONGEST_NAME = 15


def _scores_plot(scores: Sequence[int]) -> Markup:
    """Leads by score, a column for each ten points."""
    most, height, step = max([*scores, 1]), 150, _WIDTH / 10
    told = ", ".join(f"{n * 10} to {n * 10 + 9}: {leads:,}" for n, leads in enumerate(scores))
    columns = []
    for n, leads in enumerate(scores):
        tall = round(height * leads / most, 1)
        x = n * step
        columns.append(
            f'<rect class="bar" x="{x + 4:.1f}" y="{20 + height - tall}" width="{step - 8:.1f}" height="{tall}"/>'
            f'<text x="{x + step / 2:.1f}" y="{14 + height - tall}" text-anchor="middle">{leads:,}</text>'
            f'<text x="{x + step / 2:.1f}" y="{height + 36}" text-anchor="middle">{n * 10}+</text>'
        )
    return _svg(height + 44, f"Leads by score. {told}.", Markup("".join(columns)))


def _shares_plot(title: str, rows: Sequence[tuple[str, float, float]]) -> Markup:
    """The most frequent values of a column, two bars each: their share in training, and in the drop."""
    most = max([share for _, *both in rows for share in both], default=1.0) or 1.0
    room, row = _SMALL - _LEFT - 48, 34
    bars = []
    for n, (name, was, now) in enumerate(rows):
        short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        bars.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 6, n * row + 19, short))
        for kind, share, y in (("was", was, n * row + 3), ("bar", now, n * row + 16)):
            wide = max(room * share / most, 1)
            bars.append(
                Markup(f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{wide:.1f}" height="12"/>')
                + Markup(f'<text x="{_LEFT + wide + 4:.1f}" y="{y + 10}">{100 * share:.0f} %</text>')
            )
    told = "; ".join(f"{name} {100 * was:.0f} %, now {100 * now:.0f} %" for name, was, now in rows)
    return _svg(len(rows) * row, f"Share in training and now, by {title}: {told}.", Markup().join(bars), _SMALL)


def _svg(height: float, told: str, body: Markup, width: int = _WIDTH) -> Markup:
    """A drawing with its text alternative, which is text whatever is in it."""
    opening = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(width, height, told)
    return opening + body + Markup("</svg>")
