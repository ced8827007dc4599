"""The state that agents fold, as tables, and how it is read. Only agents change a table."""
