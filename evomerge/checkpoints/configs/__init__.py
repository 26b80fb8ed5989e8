"""What decides how equal weights compute, read from configurations."""
