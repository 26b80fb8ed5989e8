"""The command line: parse, call one function of the API, print.

The API loads what it is asked for, and other heavy imports stand inside command bodies,
so that ``--help`` answers at once.
"""
