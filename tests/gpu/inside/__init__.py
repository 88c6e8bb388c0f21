"""Runs in pods, in SGLang's environment."""
