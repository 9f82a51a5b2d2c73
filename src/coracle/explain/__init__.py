"""A plan as prose, as a shell script that does the same, or as JSON.

Nothing here knows a single step: each says for itself what it does (:class:`coracle.step.Step`).
"""

from __future__ import annotations

from coracle.explain.document import as_json
from coracle.explain.prose import prose
from coracle.explain.script import shell

__all__ = ["as_json", "prose", "shell"]
