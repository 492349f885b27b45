"""The report of a training as people read it.

What lives here: its Markdown. What does not: any of its figures (`steps/learning/`).
"""

from collections.abc import Sequence

from junk_leads.steps.learning.evaluation import Report


def report_markdown(report: Report) -> str:
    """A report, for people: metrics with 95 % intervals, weeks, slices, gains, grades."""
    names = list(report.splits)
    lines = _table(
        ["metric", *names],
        [[metric, *(str(report.splits[name][metric]) for name in names)] for metric in report.splits[names[0]]],
    )
    for title, part in (("week from (rolling)", report.weeks), ("slice (temporal)", report.slices)):
        told = [
            [name, str(m["auc"]), f"{m['calibration_error'].value:.4f}", f"{m['share_of_ones'].value:.4f}"]
            for name, m in part.items()
        ]
        lines += ["", *_table([title, "AUC", "calibration error", "share of 1s"], told)]
    tenths = [[str(t["part"]), f"{t['conversion']:.3f}", f"{t['lift']:.2f}", f"{t['gain']:.1%}"] for t in report.tenths]
    lines += ["", *_table(["tenth of the leads", "conversion", "lift", "genuine leads so far"], tenths)]
    grades = [
        [g["grade"], f"{g['share']:.1%}", "-" if g["conversion"] is None else f"{g['conversion']:.3f}"]
        for g in report.grades
    ]
    lines += ["", *_table(["grade", "share of leads", "conversion"], grades)]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
