"""The stores that the watches fill, and the writers of what a pass decided."""
