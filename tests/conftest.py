"""Settings for all tests: hypothesis draws the same examples everywhere, and keeps no files; torch takes one
thread, here and in processes that tests start: on networks this small several only wait for each other.
"""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
