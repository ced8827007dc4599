"""The native stack: every component as a plain process on this machine, with no container."""
