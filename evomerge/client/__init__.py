"""The client of a cluster: what can be asked of a service, and how it is asked.

Only the standard library and, to read a study file, PyYAML are loaded here.
"""
