"""The next step towards the pool as it should be.  Pure."""
