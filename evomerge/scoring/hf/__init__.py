"""transformers as an engine, where there is no vLLM."""
