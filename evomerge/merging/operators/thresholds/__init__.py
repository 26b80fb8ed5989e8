"""Where differences are cut by size, and what is left of them."""
