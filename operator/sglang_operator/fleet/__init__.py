"""Effects on engines: an HTTP client, and the poller that asks what the planner wants to know."""
