"""What was seen of a pool and its surroundings, read once for each pass.  Pure."""
