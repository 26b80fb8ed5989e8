"""lm-eval: its tasks read, checked, asked and scored."""
