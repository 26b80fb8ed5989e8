"""Workers, near and far: the in-process pool, and the only home of Ray.

A pool turns workers' lives into events; it keeps no state worth saving.
"""
