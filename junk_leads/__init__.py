"""junk_leads tells junk leads from genuine ones; see definitions.py for the graph, cli.py for the commands."""
