"""The model card: one page that says what a version is, what it was taught, how good it is and where it is not.

What lives here: its text. What does not: any of its figures (`evaluation.py`, `drift.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.evaluation import Evaluated
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.steps.learning.validation import day
from junk_leads.steps.pages.report import report_markdown
from junk_leads.steps.watching.drift import drift

_MOST_NAMES = 20
_SHIFTED = 0.25


def few(names: Sequence[str]) -> str:
    """Names in a line: all, or of very many the last and how many there are besides."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[-_MOST_NAMES:])} and {len(names) - _MOST_NAMES:,} others"


def model_card(
    version: str,
    evaluated: Evaluated,
    data: LabelledFeatures,
    encoder: Encoder,
    *,
    drops: Mapping[str, int],
    parameters: Mapping[str, Any],
    aim: Mapping[str, Any],
) -> str:
    """The card of a version, as Markdown."""
    first, last = (day(found) for found in (data.days.min(), data.days.max()))
    temporal = evaluated.report.splits["temporal"]
    shifts = drift(data, encoder, int(evaluated.holdout.days.min()))
    shifted = [name for name, index in shifts.items() if index > _SHIFTED]
    adapted = evaluated.model.booster.num_trees() > parameters["rounds"]
    rows = "\n".join(f"| {name} | {index:.3f} |" for name, index in shifts.items())
    return f"""# Model card: version {version}

Tells how likely a lead is to complete its application. LightGBM, {evaluated.model.booster.num_trees()} trees
{"of which the last adapt it to the newest leads" if adapted else "none of which adapts it to the newest leads"}.

## Data
{data.leads:,} labelled leads, {data.share:.2%} of them genuine, created {first} to {last}, from
{few([f"{drop} ({count:,})" for drop, count in drops.items()])}. Fingerprint {data.fingerprint}; encoder
{encoder.id} with {len(encoder.features)} features.

## What it does on leads it has not seen
Judged on the last leads by time: AUC {temporal["auc"]}, calibration error {temporal["calibration_error"]}.

{report_markdown(evaluated.report)}

## Calibration and threshold
Calibration: {evaluated.model.calibration.kind}, chosen on {", ".join(evaluated.model.folds)} (each predicted from
what came before). Predicted genuine from {evaluated.model.threshold:.4f}: {_aim(aim)}. On the last leads by time that
removes {temporal["junk_removed"]} of the junk and loses {temporal["genuine_lost"]} of the genuine leads.
{_base_rate(aim["true_share"], data.share)}

## Drift
Population stability index of each column, the last leads by time against those before (above {_SHIFTED}: shifted).

| column | index |
|---|---|
{rows}

## Limits
- It knows the channels, cities and interactions of its training leads; a level it has not seen counts as `others`.
- Channels drift: {_drifted(shifted)}. The random split flatters every model here; the temporal one is what to expect.
- It says nothing about why a person applies, and should not be used to treat people of one city worse than another.
- Its labels are applications completed by the time of the export; a lead that applied later counts as junk.
"""


def _aim(aim: Mapping[str, Any]) -> str:
    if aim["costs"]:
        costs = aim["costs"]
        return (
            f"where contacting gains most at {costs['cost_of_contact']:g} a contact and "
            f"{costs['value_of_application']:g} an application"
        )
    return f"a junk budget of {aim['junk_budget']:.1%} of the genuine leads"


def _base_rate(true_share: float | None, share: float) -> str:
    if true_share is None:
        return (
            f"Probabilities are those of the labelled sample, {share:.0%} of it genuine; the platform's true share, "
            "thought to be 11 to 12 %, is not corrected for (`--true-conversion`)."
        )
    return (
        f"Probabilities are corrected from the sample's {share:.1%} genuine leads to the platform's {true_share:.1%}."
    )


def _drifted(shifted: list[str]) -> str:
    return f"{', '.join(shifted)} shifted within the training leads" if shifted else "none shifted much in these leads"
