"""Which engines hold the committed weights, and what that opens, closes and recovers.  Pure."""
