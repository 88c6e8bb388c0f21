"""What people see: a cluster with its pools, and its map of GPUs as text, SVG and HTML."""
