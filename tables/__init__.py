"""The state that agents fold, as Faust tables, and how it is read. Only agents change a table."""
