"""What people read: summaries, the model card, the leaderboard, plots, data profiles."""
