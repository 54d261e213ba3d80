"""Batches: many calls in one file, run at low priority, their answers fetched as files; begin with worker.py."""
