"""Engines of two pods on two real nodes of 16 GPUs: make groups."""
