"""ROLL's side: what the fields mean that are ROLL's own."""
