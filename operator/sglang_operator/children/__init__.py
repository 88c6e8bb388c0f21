"""The objects a pool consists of, as Kubernetes JSON: one file for each kind.  Pure."""
