"""Low-rank adapters: their files, and the factors that can be averaged."""
