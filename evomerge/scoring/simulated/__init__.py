"""An engine without models, for tests, benchmarks and first tries."""
