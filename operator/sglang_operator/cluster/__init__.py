"""Effects on the API server: the only package besides ``controller`` that opens connections."""
