"""What tests are made of: tiny models, contract classes, clocks.

Shipped with the package so that users can hold their own strategies, stores and
engines to the same contracts. Nothing else in evomerge imports it.
"""
