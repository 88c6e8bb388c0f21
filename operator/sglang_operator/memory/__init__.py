"""What an engine's memory holds: weights, caches and what is left, by SGLang's own rules."""
