"""Every architecture of transformers: built tiny, merged, served, and compared."""
