"""From the spec to the pool as it should be: its engines, and how each is started.  Pure."""
