"""Webhooks: the end of a job, reported to a URL of its caller or of its key; begin with outbox.py."""
