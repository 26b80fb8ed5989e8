"""What a search found: rows, trials, pictures."""
