"""TPE and NSGA-II, on Optuna's samplers; the only door to optuna.

Functions of the rows: each candidate is asked of a new sampler, seeded by (seed,
generation, index), on an in-memory study that holds exactly what was told. Optuna's
own ask is not used: the sampler is called axis by axis along the space's conditions,
so that what enters the study is already rounded to the grid, and no grouping of axes
has to be guessed from the trials.
"""
