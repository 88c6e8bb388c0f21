"""The machinery of the API server: requests, watches, leader election.  Decides nothing of pools.

Of these it knows the paths (``paths``), and how much of each kind of child is kept (``keeping``).
"""
