"""From leads as delivered to cleaned leads.

What lives here: text and level keys, defaults of missing values, exact duplicates, city tiers. What does
not: which levels are significant (`levels.py`), and reading files (`reading.py`).
"""

import duckdb

from junk_leads.reference import LeadSchema, city_tiers
from junk_leads.steps.sql import quoted

# City tiers are published with these; a city that is not listed counts as tier 3.
UNLISTED_TIER = 3
# Characters that show nothing: control characters that are no blanks, and Unicode's Default_Ignorable_Code_Point (soft
# hyphen, joiners, direction marks, fillers, variation selectors, BOM, tags).
_INVISIBLE = (
    r"[\x{0000}-\x{0008}\x{000E}-\x{001B}\x{007F}-\x{0084}\x{0086}-\x{009F}\x{00AD}\x{034F}\x{061C}"
    r"\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}"
    r"\x{3164}\x{FE00}-\x{FE0F}\x{FEFF}\x{FFA0}\x{FFF0}-\x{FFF8}\x{1BCA0}-\x{1BCA3}\x{1D173}-\x{1D17A}"
    r"\x{E0000}-\x{E0FFF}]"
)
# Blanks of any width, all that ends a line, the separators that Python strips too, and Braille's empty cell.
_BLANKS = r"[\s\v\x{001C}-\x{001F}\x{0085}\x{2800}\p{Z}]+"
# ASCII words with single blanks between them need none of the slow normalisation.
_PLAIN = r"[!-~]+( [!-~]+)*"


def text_key(column: str) -> str:
    """SQL for a text's key: NFC, nothing invisible, single blanks, none around; empty is null."""
    return (
        f"CASE WHEN regexp_full_match({column}, '{_PLAIN}') THEN {column} ELSE "
        f"nullif(trim(regexp_replace(nfc_normalize(regexp_replace({column}, '{_INVISIBLE}', '', 'g')), "
        f"'{_BLANKS}', ' ', 'g')), '') END"
    )


def level_key(column: str) -> str:
    """SQL for a level's key: as `text_key`, in sentence case, so that `level1 ` is `Level1`."""
    key = text_key(column)
    return f"upper(substr({key}, 1, 1)) || lower(substr({key}, 2))"


def clean(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, schema: LeadSchema
) -> duckdb.DuckDBPyRelation:
    """Cleaned leads: one row for each lead that is not an exact duplicate of an earlier one of its drop.

    Takes `drop`, `lead_number` and the 45 raw columns; returns them with texts as keys, missing counts
    as their default, and `city_tier` (1 to 3) and `is_city_missing` (0 or 1) after the city. The city,
    platform, medium and source stay null when missing, the label when the drop is unlabelled.
    Duplicates are equal in every column after cleaning; the first in file order is kept. The relation is a TEMP table
    of `con`, which the next call's replaces.
    """
    normalised = normalise(con, leads, schema)  # noqa: F841  named in the SQL below
    con.execute("CREATE OR REPLACE TEMP TABLE normalised_leads AS SELECT * FROM normalised")
    # exact comparison of all columns is dear: compare only the rows whose hashes meet
    hashed = row_hashes(con, con.table("normalised_leads"))  # noqa: F841  named in the SQL below
    suspects = con.sql(
        """
        WITH met AS (SELECT drop, row_hash FROM hashed GROUP BY ALL HAVING count(*) > 1)
        SELECT * FROM normalised_leads
        SEMI JOIN (SELECT * FROM hashed SEMI JOIN met USING (drop, row_hash)) USING (drop, lead_number)
        """
    )
    repeats = repeated_leads(con, suspects)  # noqa: F841  named in the SQL below
    con.execute("CREATE OR REPLACE TEMP TABLE duplicate_leads AS SELECT * FROM repeats")
    con.execute(
        "DELETE FROM normalised_leads AS a USING duplicate_leads AS b "
        "WHERE a.drop = b.drop AND a.lead_number = b.lead_number"
    )
    return con.table("normalised_leads")


def row_hashes(con: duckdb.DuckDBPyConnection, normalised: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """A hash of every column after `drop` and `lead_number`: equal leads have equal ones, wherever they are hashed."""
    values = ", ".join(map(quoted, normalised.columns[2:]))
    return con.sql(f"SELECT drop, lead_number, hash({values}) AS row_hash FROM normalised")


def repeated_leads(con: duckdb.DuckDBPyConnection, suspects: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The leads (`drop`, `lead_number`) that are equal in every column to an earlier one of their drop."""
    values = ", ".join(map(quoted, suspects.columns[2:]))
    return con.sql(
        f"""
        SELECT drop, lead_number FROM suspects
        QUALIFY row_number() OVER (PARTITION BY drop, {values} ORDER BY lead_number) > 1
        """
    )


def normalise(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, schema: LeadSchema
) -> duckdb.DuckDBPyRelation:
    """Cleaned leads as `clean` makes them, with every row kept: each lead by itself."""
    columns = ["drop", "lead_number"]
    for column in schema.columns:
        name = quoted(column.name)
        if column.role == "city":
            columns += [f"lower({text_key(name)}) AS {name}"]
        elif column.role == "level":
            columns += [f"{level_key(name)} AS {name}"]
        elif isinstance(column.empty, int):
            columns += [f"coalesce({name}, {column.empty}) AS {name}"]
        else:
            columns += [name]
    city = schema.with_role("city")[0]
    keyed = con.sql(f"SELECT {', '.join(columns)} FROM leads")  # noqa: F841  named in the SQL below
    tiers = con.sql("SELECT unnest(?) AS city, unnest(?) AS tier", params=[*map(list, _tiers())])  # noqa: F841
    after = ", ".join(quoted(name) for name in schema.names if name not in ("created_date", city))
    return con.sql(
        f"""
        SELECT drop, lead_number, created_date, {city},
            coalesce(tier, {UNLISTED_TIER})::TINYINT AS city_tier,
            ({city} IS NULL)::TINYINT AS is_city_missing,
            {after}
        FROM keyed LEFT JOIN tiers ON keyed.{city} = tiers.city
        """
    )


def _tiers() -> tuple[tuple[str, ...], tuple[int, ...]]:
    cities, tiers = zip(*city_tiers().items(), strict=True)
    return cities, tiers
