"""Compare what is stored with what was promised; change nothing."""
