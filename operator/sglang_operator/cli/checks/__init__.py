"""What doctor examines, one file for each part of a cluster."""
