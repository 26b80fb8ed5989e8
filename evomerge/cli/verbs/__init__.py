"""Commands for jobs: of a cluster, or of the queue in a database."""
