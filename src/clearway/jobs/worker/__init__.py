"""The worker: the process that holds the leases has nothing of the application in it."""
