"""Who starts an engine's pods, and whether all at once: one adapter for each scheduler.  Pure."""
