"""Models that are written and compared: exports, merges, mixtures, recipes."""
