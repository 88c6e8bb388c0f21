"""What is worth asking of engines and of the API server.  Pure."""
