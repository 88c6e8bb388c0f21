"""Decisions: what there should be, and the next step towards it.  Pure."""
