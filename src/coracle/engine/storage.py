"""Access to the caller's own store, with the ids that its files may have."""

from __future__ import annotations

import os
from contextlib import contextmanager

from coracle.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def own_store() -> Iterator[Paths]:
    """The caller's store.  A user enters his own user namespace first, for good, so that files keep their owners.

    The paths are those of the user outside, not of the root that he becomes.
    :raises UnsupportedError: if the user may not make a user namespace.
    """
    paths = Paths()
    if os.geteuid() != 0:
        from coracle.engine.rootless import enter

        enter()
    yield paths
