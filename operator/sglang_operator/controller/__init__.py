"""The loop: what wakes it, one pass of it, and the process around it."""
