"""The 37 kinds of interaction, summed into a few groups.

What lives here: the sums. What does not: which interaction is of which group (`reference/interaction_groups.csv`).
"""

import duckdb

from junk_leads.reference import INTERACTION_GROUPS, interaction_groups


def group_interactions(con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Interaction groups: one row for each cleaned lead.

    Takes cleaned leads (counts without nulls); returns `drop`, `lead_number` and five BIGINT sums:
    assistance, career, payment, social and syllabus interactions.
    """
    members: dict[str, list[str]] = {group: [] for group in INTERACTION_GROUPS}
    for interaction, group in interaction_groups().items():
        members[group].append(f'"{interaction}"::BIGINT')
    sums = ", ".join(f"{' + '.join(columns)} AS {group}" for group, columns in members.items())
    return con.sql(f"SELECT drop, lead_number, {sums} FROM leads")
