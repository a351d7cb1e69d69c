"""How hard property tests and simulations try.

All their examples by default. A run that only asks whether another Python does the same may set ``EXAMPLES`` to a share
of them, above 0 and at most 1; ``scripts/test-versions`` does.
"""

import os
from math import ceil

SHARE = float(os.environ.get("EXAMPLES", "1"))
if not 0 < SHARE <= 1:
    raise ValueError(f"EXAMPLES={SHARE:g}: expected a share above 0, and at most 1")


def examples(count: int) -> int:
    """So many of ``count``, at least one."""
    return ceil(count * SHARE)
