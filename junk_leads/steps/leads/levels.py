"""The 90 % rule: which levels of platform, medium, source and city are significant.

What lives here: learning them from labelled leads. What does not: turning them into features (`encoding.py`).
"""

import duckdb

REACH = 0.90  # as published: levels are kept while together they make up no more than this of the counts
MOST_LEVELS = 200  # so that a million distinct levels cannot make a million features


def learn_significant_levels(
    con: duckdb.DuckDBPyConnection,
    counts: duckdb.DuckDBPyRelation,
    columns: tuple[str, ...],
    *,
    reach: float = REACH,
    most_levels: int = MOST_LEVELS,
) -> duckdb.DuckDBPyRelation:
    """The significant levels of each column, one row for each.

    A column's levels are taken from the most frequent down (ties by name) while together they make up no
    more than `reach` of its leads that have a level; the first is always taken, at most `most_levels` are. On the
    240,000 published leads that keeps the published levels. Takes counted leads (cleaned levels, `lead_count`);
    returns `feature`, `level`, `rank` (from 1), `lead_count`, `share` and `cumulative_share` (0 to 1).
    """
    parts = [
        f"""
        SELECT '{column}' AS feature, "{column}" AS level, sum(lead_count)::BIGINT AS lead_count
        FROM counts WHERE "{column}" IS NOT NULL GROUP BY ALL
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
        FROM ranked WHERE (cumulative_share <= {float(reach)} + 1e-12 OR rank = 1) AND rank <= {int(most_levels)}
        ORDER BY feature, rank
        """
    )
