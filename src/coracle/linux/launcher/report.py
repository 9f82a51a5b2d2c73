"""What a launcher tells the process that started it: records of 16 bytes on the report descriptor.

    ready     the gate is reached: everything before it is done
    failure   a call failed; the launcher ends with :data:`FAILED` right after
    warning   a call failed with an errno that the table tolerates, and asked to hear about
    value     the result of a call that asked to tell it

End of file after no failure means that the program runs, or that the launcher was killed: the
wait status tells.  A record is far below PIPE_BUF, hence never torn (pipe(7)).
"""

from __future__ import annotations

import struct

from coracle.errors import ContentError
from coracle.linux.syscall import MACHINE, numbers

READY = "ready"
FAILURE = "failure"
WARNING = "warning"
VALUE = "value"

FAILED = 255
"""Exit status of a launcher that reported a failure."""

RECORD_SIZE = 16

# bytes 0-2 "clr", byte 3 the kind; u32 step, i32 result, u32 system call.  x86_64.S writes the same.
_RECORD = struct.Struct("<3sBIiI")
_MAGIC = b"clr"
_KINDS = {ord("R"): READY, ord("F"): FAILURE, ord("W"): WARNING, ord("V"): VALUE}


class Report:
    """One record.  ``errno`` is 0 when the kernel did not fail the call but ``value`` is not the expected one."""

    __slots__ = ("call", "errno", "kind", "step", "value")

    def __init__(self, kind: str, step: int, value: int, call: str) -> None:
        self.kind = kind
        self.step = step
        self.errno = -value if kind in (FAILURE, WARNING) and value < 0 else 0
        self.value = value
        self.call = call

    def __repr__(self) -> str:
        return f"Report({self.kind}, step={self.step}, errno={self.errno}, value={self.value}, call={self.call!r})"


def ready_record(step: int, number: int) -> bytes:
    """The record that a gate writes; ``number`` is write(2)'s on the launcher's machine."""
    return _RECORD.pack(_MAGIC, ord("R"), step, 0, number)


def read_report(data: bytes, machine: str = MACHINE) -> list[Report]:
    """The records in ``data``, whole ones only, as read from the report descriptor so far.

    ``machine`` is the one that the table was made for.

    :raises ContentError: when something else wrote there.
    """
    reports = []
    names = {number: name for name, number in numbers(machine).items()} if data else {}
    for offset in range(0, len(data) - len(data) % RECORD_SIZE, RECORD_SIZE):
        magic, kind, step, value, number = _RECORD.unpack_from(data, offset)
        if magic != _MAGIC or kind not in _KINDS:
            raise ContentError(f"the launcher's report is damaged at byte {offset}: {data[offset : offset + 16]!r}")
        reports.append(Report(_KINDS[kind], step, value, names.get(number, str(number))))
    return reports
