"""How much memory captured prefills may take."""

from __future__ import annotations

import os


def default_limit_bytes() -> int:
    """Return a quarter of the machine's memory, at most 6 GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 8 << 30
    return int(min(total // 4, 6 << 30))
