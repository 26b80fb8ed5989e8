"""From YAML to written models, with every mistake of a file."""
