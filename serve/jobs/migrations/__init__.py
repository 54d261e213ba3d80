"""Schema versions of the database of jobs, applied in order when it is opened (serve.jobs.database)."""
