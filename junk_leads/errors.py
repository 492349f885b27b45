"""The errors a person may see, each one plain line that says what to do.

    JunkLeadsError              an expected refusal or failure; the command line prints it, exit code 1
    ├── DropRefused             a delivered file (a drop) cannot be accepted; it goes to quarantine
    ├── DropUnknown             a drop that was never accepted is asked for
    ├── DropNotTrusted          a drop contradicts what the model was taught; it is kept and not scored
    ├── CodesRefused            a code map cannot be proposed, read, accepted or taken back
    ├── WarehouseUnavailable    the DuckDB file cannot be opened, or holds what it should not
    ├── StorageUnavailable      the shards of a drop, or the tables made of them, cannot be reached; nothing was changed
    ├── ClusterUnavailable      a Dask scheduler or its workers do not answer, or are not as this process is
    ├── CapacityExceeded        memory or disk does not hold what was asked for
    ├── TrainingRefused         the labelled leads do not make a model; the champion stays
    ├── PromotionRefused        a challenger does not pass the gate; the champion stays
    └── RegistryError           MLflow cannot be reached, or a version is missing or damaged
        └── NoChampion          nothing is in Production yet

Messages name the thing, the value received and what to do, and never hold a lead's data.
"""


class JunkLeadsError(Exception):
    """An expected refusal or failure, told in one plain line."""


class DropRefused(JunkLeadsError):
    """A delivered file cannot be accepted.

    `what`, `where`, `expected` and `do` are the fields of the quarantine's `reason.json`.
    """

    def __init__(self, what: str, *, where: str = "file", expected: str = "", do: str = "") -> None:
        self.what, self.where, self.expected, self.do = what, where, expected, do
        at = f" ({where})" if where.startswith("line ") and where not in what else ""
        expected = f"; expected {expected}" if expected else ""
        super().__init__(" ".join(f"{what}{at}{expected}; {do}".rstrip("; ").split()))

    def as_dict(self) -> dict[str, str]:
        """The refusal as `reason.json` holds it."""
        return {"what": self.what, "where": self.where, "expected": self.expected, "do": self.do}


class DropUnknown(JunkLeadsError):
    """A drop that was never accepted is asked for."""


class DropNotTrusted(JunkLeadsError):
    """A drop contradicts what the model was taught: it is kept, and not scored until somebody decides."""


class CodesRefused(JunkLeadsError):
    """A code map cannot be proposed, read, accepted or taken back."""


class WarehouseUnavailable(JunkLeadsError):
    """The DuckDB file cannot be opened, or holds what it should not."""


class StorageUnavailable(JunkLeadsError):
    """The storage of shards cannot be reached; nothing was changed."""


class ClusterUnavailable(JunkLeadsError):
    """A Dask scheduler or its workers do not answer, or are not as this process is."""


class CapacityExceeded(JunkLeadsError):
    """Memory or disk does not hold what was asked for, or a setting of theirs is no amount."""


class TrainingRefused(JunkLeadsError):
    """The labelled leads do not make a model; nothing is registered and the champion stays."""


class PromotionRefused(JunkLeadsError):
    """A challenger does not pass the gate; the champion stays."""


class RegistryError(JunkLeadsError):
    """MLflow cannot be reached, or a registered version is missing or damaged."""


class NoChampion(RegistryError):
    """No version is in Production yet."""
