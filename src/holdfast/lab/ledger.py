"""The proof of the demo: each order that a client has a receipt for is in the database, and only once."""

import contextlib
import sqlite3
from collections.abc import Sequence
from itertools import batched
from pathlib import Path

from holdfast.lab.scene import OrderCheck
from holdfast.lab.traffic import Receipt
