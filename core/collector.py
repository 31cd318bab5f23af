"""How often the interpreter looks for garbage in cycles.

By default it looks after every 700 new objects, and again and again through those of a large batch, which
took up to a quarter of its time. What a process has loaded when it is ready stays for good and is not looked
at any more.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 50_000


def settle() -> None:
    """Call once in a process that is ready to serve."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
