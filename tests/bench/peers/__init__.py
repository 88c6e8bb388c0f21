"""``make bench-peers``: other operators as they are shipped, under the same load."""
