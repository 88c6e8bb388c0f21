"""SGLang's side: versions, command line, environment, probes, and how engines die."""
