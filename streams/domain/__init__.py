"""The pure core: decisions only. No clock, no I/O, no framework (import-linter checks it)."""
