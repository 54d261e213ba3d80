"""One module for each schema version. A published one is never changed; a change of tables is a new one."""
