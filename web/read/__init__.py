"""Reading: the newest events, one record, closed windows; and asking other workers."""
