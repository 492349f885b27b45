"""The lead schema's types as Arrow's.

What lives here: how a typed lead is held in Arrow, read from a file or drawn. What does not: the schema itself
(`reference/lead_schema.yaml`).
"""

import pyarrow as pa

ARROW_TYPES = {
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR": pa.string(),
    "INTEGER": pa.int32(),
    "TINYINT": pa.int8(),
}
