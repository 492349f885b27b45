"""Where everything that a run writes lives: one root, `JUNK_LEADS_HOME`.

What lives here: the names of its folders and files, and putting them in place (the Dagster
instance's configuration ships with the package). What does not: reading or writing their content.
"""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from junk_leads.errors import JunkLeadsError

VARIABLE = "JUNK_LEADS_HOME"
DEFAULT = "data"
TABLES_VARIABLE = "JUNK_LEADS_TABLES"
SCHEDULER_VARIABLE = "JUNK_LEADS_SCHEDULER"


def number_setting(name: str, default: float, *, below: float = 1e9) -> float:
    """A setting of the environment that is a number from 0 to `below`; raises JunkLeadsError when it is none."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < below:
        raise JunkLeadsError(f"{name} is {text!r}, which is no number; write one like {default:g}")
    return value


@dataclass(frozen=True)
class Home:
    """The folders and files below one root."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """The home that `JUNK_LEADS_HOME` names, or `data/` in the current folder."""
        return cls(Path(os.environ.get(VARIABLE) or DEFAULT).absolute())

    @property
    def incoming(self) -> Path:
        """CSVs dropped for the sensor; a file leaves it when it is done with."""
        return self.root / "incoming"

    @property
    def handed(self) -> Path:
        """Copies of files named on the command line, until they are accepted or refused."""
        return self.incoming / ".handed"

    @property
    def quarantine(self) -> Path:
        """Refused files, each in a folder with its `reason.json`."""
        return self.root / "quarantine"

    @property
    def resolved(self) -> Path:
        """Refused files whose mended one has been accepted since."""
        return self.quarantine / "resolved"

    @property
    def archive(self) -> Path:
        """Accepted files, as delivered."""
        return self.root / "archive"

    @property
    def predictions(self) -> Path:
        """Scored CSVs and summaries, for people."""
        return self.root / "predictions"

    @property
    def running_lock(self) -> Path:
        """The file that every run holds a lock of while its process lives."""
        return self.root / "running.lock"

    @property
    def percentages(self) -> Path:
        """The percentages of 1s and 0s of every drop, a line each time it is scored; only ever added to."""
        return self.predictions / "percentages.log"

    @property
    def servers_log(self) -> Path:
        """What the servers of `junk-leads ui` print, since it was started last."""
        return self.root / "servers.log"

    @property
    def alerts(self) -> Path:
        """What somebody was told of, a line each."""
        return self.root / "alerts.log"

    @property
    def reports(self) -> Path:
        """Reports, for people."""
        return self.root / "reports"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file with every table."""
        return self.root / "warehouse.duckdb"

    @property
    def tables(self) -> Path:
        """The parts of tables of drops in shards: where `JUNK_LEADS_TABLES` says, on storage that all workers see."""
        return Path(os.environ.get(TABLES_VARIABLE) or self.root / "tables").absolute()

    @property
    def ledger(self) -> Path:
        """The SQLite file that says which file became which drop."""
        return self.root / "ledger.db"

    @property
    def mlflow_uri(self) -> str:
        """Tracking and registry store of MLflow, a SQLite file."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlartifacts(self) -> Path:
        """Files logged to MLflow."""
        return self.root / "mlartifacts"

    @property
    def dagster(self) -> Path:
        """The Dagster instance."""
        return self.root / "dagster"

    def prepare(self) -> "Home":
        """Make the folders and put the instance's configuration in place; returns the home.

        A `dagster.yaml` that is there already is left as it is: its owner may have changed it.
        """
        for folder in (self.handed, self.quarantine, self.archive, self.predictions, self.reports):
            folder.mkdir(parents=True, exist_ok=True)
        self.mlartifacts.mkdir(exist_ok=True)
        self.dagster.mkdir(exist_ok=True)
        instance = self.dagster / "dagster.yaml"
        if not instance.exists():
            shipped = files("junk_leads").joinpath("reference", "dagster.yaml")
            part = instance.with_suffix(f".{os.getpid()}.part")  # several processes may start at once
            part.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
            os.replace(part, instance)
        return self
