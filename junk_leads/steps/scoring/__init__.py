"""A model speaks of leads: probability, score, grade and reasons."""
