"""What is shipped, against other people's checks: Kubernetes' schemas and checkov's rules."""
