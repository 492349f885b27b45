"""Names as SQL takes them.

What lives here: quoting. What does not: any statement, which is where what it says belongs.
"""


def quoted(name: str) -> str:
    """A table's or column's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL takes it, where no parameter can stand."""
    return "'" + text.replace("'", "''") + "'"
