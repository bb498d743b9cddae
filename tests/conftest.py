"""Settings for all tests: hypothesis draws the same examples everywhere, and keeps no files."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
