"""Typed loader of the package's reference data: one home per fact.

What lives here: reading `reference/` (lead schema, city tiers, interaction groups, parameters)
into frozen values. What does not: any rule that uses them (see `steps/`).
"""

import csv
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

OTHERS = "others"
INTERACTION_GROUPS = (
    "assistance_interaction",
    "career_interaction",
    "payment_interaction",
    "social_interaction",
    "syllabus_interaction",
)


@dataclass(frozen=True)
class Column:
    """One column of the lead schema; see the head of `reference/lead_schema.yaml`."""

    name: str
    role: str
    type: str
    empty: str | int
    largest: int | None = None
    required: bool = True


@dataclass(frozen=True)
class LeadSchema:
    """The 45 columns of a delivered lead, in the order of the table."""

    columns: tuple[Column, ...]
    null_tokens: tuple[str, ...]
    date_format: str
    earliest_date: date
    latest_date: date
    largest_count: int
    absurd_count: int
    longest_text: int

    @property
    def names(self) -> tuple[str, ...]:
        """All 45 column names."""
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """The column names a file must have (all but the label)."""
        return tuple(column.name for column in self.columns if column.required)

    @property
    def needed(self) -> tuple[str, ...]:
        """What a lead that is scored by itself must have, if only as null; interactions left out count as none."""
        return tuple(column.name for column in self.columns if column.role not in ("interaction", "label"))

    def with_role(self, *roles: str) -> tuple[str, ...]:
        """The names of the columns with any of these roles, in schema order."""
        return tuple(column.name for column in self.columns if column.role in roles)

    @property
    def label(self) -> str:
        """The name of the label column."""
        return self.with_role("label")[0]


def read_text(name: str) -> str:
    """The text of a file in `reference/`."""
    return files("junk_leads").joinpath("reference", name).read_text(encoding="utf-8")


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(read_text(name).splitlines()))


@cache
def city_tiers() -> dict[str, int]:
    """Tier (1, 2 or 3) of each listed city; a city that is not listed counts as tier 3."""
    return {row["city"]: int(row["tier"]) for row in _rows("city_tiers.csv")}


@cache
def interaction_groups() -> dict[str, str]:
    """Group of each of the 37 interaction columns, in schema order."""
    return {row["interaction"]: row["interaction_group"] for row in _rows("interaction_groups.csv")}


@cache
def level_names() -> dict[tuple[str, str], str]:
    """What people call a level, by column and level without regard to case; none unless a platform fills the table."""
    return {(row["column"], row["level"].casefold()): row["name"] for row in _rows("level_names.csv")}


@cache
def lead_schema() -> LeadSchema:
    """The lead schema, with the interaction columns put in their place."""
    content: dict[str, Any] = yaml.safe_load(read_text("lead_schema.yaml"))
    columns: list[Column] = []
    for entry in content.pop("columns"):
        names = interaction_groups() if entry["name"] == "*" else [entry["name"]]
        columns += [Column(**{**entry, "name": name}) for name in names]
    content["null_tokens"] = tuple(content["null_tokens"])
    return LeadSchema(columns=tuple(columns), **content)


@cache
def model_settings() -> dict[str, Any]:
    """Training defaults: LightGBM parameters, minimum data, floors, grades."""
    settings: dict[str, Any] = yaml.safe_load(read_text("model_params.yaml"))
    return settings


@cache
def trust_settings() -> dict[str, Any]:
    """When a drop can be trusted, and when its codes are taken for renamed; see the head of `reference/trust.yaml`."""
    settings: dict[str, Any] = yaml.safe_load(read_text("trust.yaml"))
    return settings


@cache
def learner_settings() -> dict[str, dict[str, Any]]:
    """The learners that an experiment compares, by name; see the head of `reference/learners.yaml`."""
    settings: dict[str, dict[str, Any]] = yaml.safe_load(read_text("learners.yaml"))
    return settings
