"""Effects on engines: an HTTP client, and the poller that asks what ``ask`` wants to know."""
