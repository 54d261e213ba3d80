"""New covers for a library of songs: for each song or album that has none. Read backfill.py first."""
