"""Who starts an engine's pods, and whether all at once: one strategy for each scheduler.  Pure."""
