"""`python -m junk_leads.cli` is `junk-leads`."""

from junk_leads.cli import program

program()
