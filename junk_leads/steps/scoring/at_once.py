"""Scores at once: a few leads, without a table made of them.

What lives here: the features of typed leads put together in this process, and what is predicted of a kind kept for the
next lead of it. What does not: what a text's key is, which is asked of the same SQL as the graph's, and predicting
(`scoring.py`). A lead gets the same as in the graph, to the bit: `test_http_service.py` holds them against each other.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from junk_leads.reference import INTERACTION_GROUPS, city_tiers, interaction_groups
from junk_leads.steps.leads.cleaning import UNLISTED_TIER, level_key, text_key
from junk_leads.steps.leads.encoding import COUNT_COLUMNS
from junk_leads.steps.scoring.scoring import PREDICTED, ScoringModel, predict_kinds

MOST_KEPT = 100_000  # texts, and kinds; then what is kept is forgotten
_LARGEST = 2**31 - 1


class AtOnce:
    """Scores typed leads with one model; from any thread."""

    def __init__(self, model: ScoringModel) -> None:
        self.model = model
        encoder = model.encoder
        self._place = {feature: place for place, feature in enumerate(encoder.features)}
        self._levels = {
            column: dict(zip(levels, encoder.blocks[column], strict=False)) for column, levels in encoder.levels.items()
        }
        self._lock = threading.Lock()
        self._con = duckdb.connect()
        self._con.execute("SET threads = 1")
        self._keys: dict[tuple[str, str], str | None] = {}
        self._predicted: dict[bytes, dict[str, Any]] = {}

    def score(self, leads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What is predicted of each of n typed raw leads (the lead schema's columns; those left out are missing)."""
        kinds = self._kinds(leads)
        marks = [kind.tobytes() for kind in kinds]
        with self._lock:
            found = {mark: self._predicted[mark] for mark in set(marks) if mark in self._predicted}
        new = list(dict.fromkeys(mark for mark in marks if mark not in found))
        if new:
            rows = np.stack([np.frombuffer(mark, dtype=np.int32) for mark in new])
            told = predict_kinds(rows, self.model).select(list(PREDICTED)).to_pylist()
            found.update(zip(new, told, strict=True))
            with self._lock:
                if len(self._predicted) + len(new) > MOST_KEPT:
                    self._predicted.clear()
                self._predicted.update(zip(new, told, strict=True))
        return [found[mark] for mark in marks]

    def _kinds(self, leads: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The features of each lead, (n x f)."""
        keys, encoder = self._keys_of(leads), self.model.encoder
        rows = np.zeros((len(leads), len(encoder.features)), dtype=np.int32)
        for row, lead in zip(rows, leads, strict=True):
            for column in COUNT_COLUMNS:
                row[self._place[column]] = lead.get(column) or 0
            city = keys.get(("city_mapped", lead.get("city_mapped") or ""))
            row[self._place["is_city_missing"]] = city is None
            row[self._place[f"city_tier_{city_tiers().get(city or '', UNLISTED_TIER)}"]] = 1
            for column, features in self._levels.items():
                key = keys.get((column, lead.get(column) or ""))
                feature = features.get(key or "", encoder.blocks[column][-1])
                row[self._place[feature]] = 1
            sums = dict.fromkeys(INTERACTION_GROUPS, 0)
            for interaction, group in interaction_groups().items():
                sums[group] += lead.get(interaction) or 0
            for group, count in sums.items():
                row[self._place[group]] = min(count, _LARGEST)
        return rows

    def _keys_of(self, leads: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str | None]:
        """The keys of the leads' texts, by column and text; of new ones they are asked for in one query."""
        texts = {(column, lead[column]) for lead in leads for column in self._levels if lead.get(column)}
        with self._lock:
            known = {text: self._keys[text] for text in texts if text in self._keys}
            new = sorted(texts - known.keys())
            if new:
                told = self._con.execute(
                    f"SELECT CASE WHEN is_city THEN lower({text_key('text')}) ELSE {level_key('text')} END "
                    "FROM (SELECT unnest(?::VARCHAR[]) AS text, unnest(?::BOOLEAN[]) AS is_city)",
                    [[text for _, text in new], [column == "city_mapped" for column, _ in new]],
                ).fetchall()
                found = dict(zip(new, (key for (key,) in told), strict=True))
                if len(self._keys) + len(new) > MOST_KEPT:
                    self._keys.clear()
                self._keys.update(found)
                known.update(found)
        return known
