"""Whether what a file asks for fits the models and tasks it names."""
