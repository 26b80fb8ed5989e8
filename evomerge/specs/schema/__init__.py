"""What may be written in a study file."""
