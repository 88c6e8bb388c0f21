"""What the user wrote: the resource, its names, its conditions and every text about a mistake."""
