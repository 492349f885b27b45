"""What the process that `killing.py` forks commands from has imported: all that they need. Nothing else lives here."""

import gc

import junk_leads.cli  # noqa: F401
from junk_leads.running.warm import warm_up

warm_up()
gc.collect()
gc.freeze()
