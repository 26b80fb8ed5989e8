"""The command line: parse, call one function of the API, print.

Heavy imports stand inside command bodies, so that ``--help`` answers at once.
"""
