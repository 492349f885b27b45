"""Watching: a drop is held against what the model was taught; and what comes later against what it said.

In order: overlap, profiles, known_leads, aligning, codes, drift, trust, history, outcomes.
"""
