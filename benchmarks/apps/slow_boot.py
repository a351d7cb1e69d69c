"""The plain app after two seconds of import, as a large application takes."""

import time

from plain import app

__all__ = ["app"]

time.sleep(2.0)
