"""Pools whose engines wait in queues of the real Kueue: make kueue."""
