"""Pages of tables and dead letters, in JSON and as HTML."""
