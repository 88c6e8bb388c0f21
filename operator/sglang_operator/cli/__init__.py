"""The command line for people: ``kubectl sglang``.  Nothing imports it."""
