"""A file becomes features: split, read, cleaned, its interactions grouped, its levels learned and encoded."""
