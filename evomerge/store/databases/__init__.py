"""Databases of both kinds: opened, at the present schema, told apart by their URLs."""
