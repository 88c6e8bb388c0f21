"""Every write to the API server, what guards it, and what happens once a guard is lost."""
