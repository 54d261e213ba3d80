"""Webhooks: the end of a job, reported to a URL that its caller gave."""
