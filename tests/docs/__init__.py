"""The documentation is run: which blocks there are, and what each is for."""
