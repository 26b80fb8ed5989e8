"""A merged model on disk."""
