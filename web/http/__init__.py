"""The server below the application: connections, bodies, bounds, and a second port."""
