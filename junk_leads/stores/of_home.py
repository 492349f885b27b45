"""The stores of one home, by name.

What lives here: which stores a home has, for whoever holds one (Dagster's resource, the platform of the command line).
What does not: the stores.
"""

from typing import Protocol

from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.registry import Announce, Registry


class HasHome(Protocol):
    """Whatever holds a home."""

    @property
    def home(self) -> Home:
        """The folders."""
        ...

    @property
    def announce(self) -> Announce | None:
        """Who is told when a version comes into Production or leaves it."""
        ...


class OfHome:
    """Gives whatever holds a home its stores."""

    @property
    def ledger(self: HasHome) -> Ledger:
        """Which file became which drop."""
        return Ledger(self.home)

    @property
    def registry(self: HasHome) -> Registry:
        """The versions of the model."""
        return Registry(self.home, self.announce)
