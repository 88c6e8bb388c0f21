"""Why an engine ended or does not start, from what Kubernetes and its log tell.  Pure."""
