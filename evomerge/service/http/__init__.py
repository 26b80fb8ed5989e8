"""The service over HTTP: routes, errors as problem+json, streams of events."""
