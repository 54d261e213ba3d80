"""Jobs for new covers: their table, and what runs them; begin with jobs.py, then store.py (the API) and runner.py."""
