"""The only home of tensor arithmetic: from a recipe to merged weights."""
