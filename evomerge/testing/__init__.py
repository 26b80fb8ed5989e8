"""What tests are made of: contract classes, fakes and tiny models.

Shipped with the package so that users can hold their own strategies, stores, pools and
engines to the same contracts (docs/architecture.md has the lines to write). Nothing
else in evomerge imports it.
"""
