"""Many searches, many workers: a queue in the database, workers that take from it, and an HTTP service over it."""
