"""Swap a recipe into a living engine and score it, item by item.

Engines speak tokens and know no tasks; the harness speaks lm-eval and knows no
weights; the evaluator joins them. Nothing here sees the database or the strategy.
Heavy libraries load only with the engine or task kind that needs them.
"""
