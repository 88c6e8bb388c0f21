"""Which GPUs an engine gets, and how it comes to see exactly these: one strategy a mode.  Pure."""
