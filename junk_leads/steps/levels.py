"""The 90 % rule: which levels of platform, medium, source and city are significant.

What lives here: learning them from labelled leads. What does not: turning them into features (`encoding.py`).
"""

import duckdb

REACH = 0.90  # the published way keeps the levels that make up 90 % of the counts
MOST_LEVELS = 200  # so that a million distinct levels cannot make a million features


def learn_significant_levels(
    con: duckdb.DuckDBPyConnection,
    leads: duckdb.DuckDBPyRelation,
    columns: tuple[str, ...],
    *,
    reach: float = REACH,
    most_levels: int = MOST_LEVELS,
) -> duckdb.DuckDBPyRelation:
    """The significant levels of each column, one row for each.

    A column's levels are taken from the most frequent down (ties by name) until together they reach
    `reach` of its leads that have a level, at most `most_levels`. Takes cleaned, labelled leads; returns
    `feature`, `level`, `rank` (from 1), `lead_count`, `share` and `cumulative_share` (0 to 1).
    """
    parts = [
        f"""
        SELECT '{column}' AS feature, "{column}" AS level, count(*) AS lead_count
        FROM leads WHERE "{column}" IS NOT NULL GROUP BY ALL
        """
        for column in columns
    ]
    return con.sql(
        f"""
        WITH counted AS ({" UNION ALL ".join(parts)}),
        ranked AS (
            SELECT *,
                row_number() OVER by_count AS rank,
                lead_count / sum(lead_count) OVER (PARTITION BY feature) AS share,
                sum(lead_count) OVER by_count / sum(lead_count) OVER (PARTITION BY feature) AS cumulative_share
            FROM counted
            WINDOW by_count AS (PARTITION BY feature ORDER BY lead_count DESC, level ROWS UNBOUNDED PRECEDING)
        )
        SELECT feature, level, rank::INTEGER AS rank, lead_count, share, cumulative_share
        FROM ranked WHERE cumulative_share - share < {float(reach)} AND rank <= {int(most_levels)}
        ORDER BY feature, rank
        """
    )
