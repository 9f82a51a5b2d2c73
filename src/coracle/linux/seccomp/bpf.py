"""Classic BPF, written back to front.

A jump in classic BPF only goes forward, and a conditional one at most 255 instructions (linux/filter.h: u8 jt, jf).
Emitting the last instruction first makes every target known when a jump to it is written, so its distance is exact,
equal continuations are shared instead of repeated, and a target out of reach gets a stepping stone right where it is
needed.  Only instructions that the kernel can evaluate when it builds its table of always-allowed calls
(kernel/seccomp.c, seccomp_is_const_allow) are used on the way to a constant answer.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # Positions count from the end of the program: 0 is its last instruction.
    Label = int

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: 32-bit word of struct seccomp_data into the accumulator
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K; JGE likewise, unsigned
JGE = 0x35
RETURN = 0x06  # BPF_RET | BPF_K

_REACH = 254  # one below the limit, so that a stepping stone for the other branch still fits in between


class Assembler:
    """Collects instructions from the last to the first."""

    __slots__ = ("_code", "_returns")

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, Label] = {}

    def program(self) -> bytes:
        """All instructions in their order of execution, as struct sock_filter."""
        return b"".join(struct.pack("HBBI", *instruction) for instruction in reversed(self._code))

    def give(self, value: int) -> Label:
        """A place that ends the program with the SECCOMP_RET_* ``value``."""
        if value not in self._returns:
            self._returns[value] = self._emit(RETURN, value)
        return self._returns[value]

    def load(self, offset: int, then: Label) -> Label:
        """Load the word at ``offset`` of struct seccomp_data, then go on at ``then``."""
        return self._before(LOAD, offset, then)

    def mask(self, mask: int, then: Label) -> Label:
        """Clear the bits outside ``mask`` in the accumulator, then go on at ``then``."""
        return self._before(AND, mask, then)

    def branch(self, comparison: int, value: int, yes: Label, no: Label) -> Label:
        """Go to ``yes`` if the accumulator compares with ``value``, else to ``no``."""
        if yes == no:
            return yes
        yes, no = self._near(yes), self._near(no)
        position = len(self._code)
        return self._emit(comparison, value, position - yes - 1, position - no - 1)

    def search(self, pieces: Sequence[tuple[int, Label]], weights: Sequence[int]) -> Label:
        """Find the accumulator among ``pieces`` by binary search, the heavier ones in fewer steps.

        A piece is (first value, place to go); it ends before the next one, and the first starts at 0.
        ``weights`` has one number per piece: how often it is expected to be looked for.
        """
        if len(pieces) == 1:
            return pieces[0][1]
        if len(pieces) == 3 and pieces[0][1] == pieces[2][1] and pieces[1][0] + 1 == pieces[2][0]:
            return self.branch(JEQ, pieces[1][0], pieces[1][1], pieces[0][1])
        middle = _balance(weights)
        upper = self.search(pieces[middle:], weights[middle:])
        lower = self.search(pieces[:middle], weights[:middle])
        return self.branch(JGE, pieces[middle][0], upper, lower)

    def _emit(self, code: int, k: int, yes: int = 0, no: int = 0) -> Label:
        self._code.append((code, yes, no, k))
        return len(self._code) - 1

    def _before(self, code: int, k: int, then: Label) -> Label:
        if self._code[then][0] == RETURN:
            return then
        if then != len(self._code) - 1:
            self._emit(JUMP, len(self._code) - then - 1)
        return self._emit(code, k)

    def _near(self, label: Label) -> Label:
        """``label``, or a place that does the same and that the next instruction can reach."""
        if len(self._code) - label - 1 <= _REACH:
            return label
        code, _, _, k = self._code[label]
        if code != RETURN:
            return self._emit(JUMP, len(self._code) - label - 1)
        if len(self._code) - self._returns[k] - 1 > _REACH:
            self._returns[k] = self._emit(RETURN, k)
        return self._returns[k]


def _balance(weights: Sequence[int]) -> int:
    """Where to cut ``weights`` so that both sides weigh about the same; both get at least one."""
    total, before, best, cut = sum(weights), 0, 0, 0
    for index, weight in enumerate(weights[:-1], 1):
        before += weight
        difference = abs(total - 2 * before)
        if not cut or difference < best:
            best, cut = difference, index
    return cut
