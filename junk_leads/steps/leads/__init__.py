"""A file becomes features: split, read, cleaned, its interactions grouped, its levels learned, encoded.

In order: splitting, reading, cleaning, interactions, levels, encoding, counting, kinds, accounting, arrow, generating.
"""
