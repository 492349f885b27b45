"""junk_leads tells junk leads from genuine ones; see definitions.py for the graph, cli/ for the commands."""
