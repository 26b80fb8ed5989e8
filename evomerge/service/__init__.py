"""A service for a cluster: processes that run the jobs of the queue."""
