"""What runs in ROLL's environment: its pipelines, and engines that join torch's process groups."""
