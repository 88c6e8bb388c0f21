"""In the place of SGLang, in the containers of a real control plane: see ``tests.roll.plane``."""
