"""What people see: pools, engines and GPUs as one scene, and its map as text, SVG and HTML."""
