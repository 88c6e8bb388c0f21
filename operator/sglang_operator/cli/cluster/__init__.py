"""What commands ask of a cluster, by kubectl, and what they make of its answers."""
