"""Operators that choose among differences entry by entry."""
