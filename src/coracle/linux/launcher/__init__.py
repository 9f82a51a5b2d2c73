"""The last moments before a container's program starts, without an interpreter in memory.

Between Python and the program stands a tiny static ELF file, made in memory for this one start:
about 400 bytes of constant machine code that walk a table of system calls, and the table.  Why:

- ``/proc/self/exe`` of the process that waits in the container is a sealed memfd that dies with
  it, not the host's python, which a container could overwrite (CVE-2019-5736).
- A created container, the infra process of a pod and ``--init`` hold 12 KB (Pss), not Python's 5 MB.
- seccomp(2) and execve(2) are neighbours in the table, and nothing comes between neighbours.

    table = Table()
    table.call("capset", Struct("II", 0x20080522, 0), Struct("6I", *masks))
    table.gate(start_fd)
    table.reset_signals(ignored_signals())
    table.call("seccomp", 1, 0, Struct("HP", count, Pointer(program)))
    table.execve([b"/bin/sh", b"/usr/bin/sh"], [b"sh"], [b"A=b"])
    table.execute(report_fd)        # does not return

The process that calls :meth:`Table.execute` stays the same process, so what execve(2) does to it
has to be planned for:

- Capabilities are computed anew (capabilities(7)): as uid 0 of its user namespace it keeps them;
  any other uid keeps only ambient ones, and PR_SET_KEEPCAPS is forgotten.  So change ids in the table.
- An LSM label written to /proc/self/attr/exec would be spent on the launcher: write it in the
  table (openat with ``save``, write and close with ``SAVED``).
- Ignored signals stay ignored: :meth:`Table.reset_signals`.
- Descriptors without CLOEXEC stay open.  The report and gate descriptors are kept by ``execute``
  and get CLOEXEC back as the launcher's first act, so the program's start shows as end of file.
- The process becomes dumpable again (prctl(2)); call PR_SET_DUMPABLE first where that matters.

x86_64.S and aarch64.S are the source of the bytes in code.py.
"""

from __future__ import annotations

from coracle.linux.launcher.code import SUPPORTED
from coracle.linux.launcher.image import execute, seal
from coracle.linux.launcher.pool import Pointer, Struct, Vector
from coracle.linux.launcher.report import FAILURE, READY, VALUE, WARNING, Report, read_report
from coracle.linux.launcher.table import SAVED, Table, ignored_signals

__all__ = [
    "FAILURE",
    "READY",
    "SAVED",
    "SUPPORTED",
    "VALUE",
    "WARNING",
    "Pointer",
    "Report",
    "Struct",
    "Table",
    "Vector",
    "execute",
    "ignored_signals",
    "read_report",
    "seal",
]
