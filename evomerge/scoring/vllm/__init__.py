"""vLLM: the engine, its worker, and the layer slots of stacks."""
