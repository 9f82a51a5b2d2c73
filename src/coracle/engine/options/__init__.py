"""Options of the verbs: one table each, read by one small parser.

``parse_run(argv)`` is the front door for ``run`` and ``create``; other verbs build a ``Table``
of their own and call ``parse``.
"""

from __future__ import annotations

from coracle.engine.options.mounts import Mount
from coracle.engine.options.parser import FLAG, LIST, MAP, REFUSED, SPLIT, VALUE, Option, Options, Table, parse
from coracle.engine.options.run import RUN, check, image_and_command, parse_run
from coracle.engine.options.run_options import RunOptions

__all__ = [
    "FLAG",
    "LIST",
    "MAP",
    "REFUSED",
    "RUN",
    "SPLIT",
    "VALUE",
    "Mount",
    "Option",
    "Options",
    "RunOptions",
    "Table",
    "check",
    "image_and_command",
    "parse",
    "parse_run",
]
