"""The plain app, until a bad version of it is deployed: importing it fails while the file in BENCH_BROKEN exists."""

import os
from pathlib import Path

from plain import app

__all__ = ["app"]

if Path(os.environ["BENCH_BROKEN"]).exists():
    raise RuntimeError("a bad deploy: this module does not import")
