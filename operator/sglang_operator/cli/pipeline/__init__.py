"""ROLL pipelines: what is in one, and the SGLangInference objects that it becomes."""
