"""How the platform is run: on a laptop, in containers, in the cloud."""
