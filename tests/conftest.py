"""Fixtures that every suite may ask for, and how properties are tried."""

from hypothesis import settings

pytest_plugins = ["tests.stack"]

# The same on a laptop and in CI, and no verdict by the clock: machines are slow at times.
settings.register_profile("streams", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("streams")
