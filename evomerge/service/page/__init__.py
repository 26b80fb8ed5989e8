"""The page of a service: what there is to watch, as HTML that a browser shows."""
