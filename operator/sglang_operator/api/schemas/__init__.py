"""What is generated from Kubernetes' own schemas."""
