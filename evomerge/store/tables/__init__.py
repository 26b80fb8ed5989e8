"""The tables, and values as their rows."""
