"""The operator's image: what goes into it."""
