"""The machinery of the API server: requests, watches, leader election.  Knows no pool."""
