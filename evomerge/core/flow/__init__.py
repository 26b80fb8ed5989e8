"""Data flow: which layers of which model run, in which order, how strongly.

A kind of data flow names its axes and turns any point of them into a stack of layers;
nothing a strategy may propose is impossible. Kinds are ``gates``, ``edits``,
``donors``, ``switches`` and ``slices``; a blueprint makes recipes of their stacks.
"""
