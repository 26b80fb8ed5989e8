"""Processes that are forks of one which has loaded everything, and so start at once."""
