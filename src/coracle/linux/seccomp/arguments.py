"""Decisions that depend on a call's arguments, which are 64-bit values read as two 32-bit words."""

from __future__ import annotations

from coracle.linux.seccomp.bpf import JEQ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coracle.linux.seccomp.bpf import Assembler, Label
    from coracle.linux.seccomp.profile import Comparison

    Spans = tuple[tuple[int, int], ...]
    Test = tuple[tuple[Comparison, ...], int]  # comparisons that must all hold, and the answer if they do
    Decision = tuple[tuple[Test, ...], int, int]  # tests in order, the answer if none holds, bits of an argument

_WORD = 0xFFFFFFFF
_ARGUMENTS = 16  # offset of args[6] in struct seccomp_data; little endian, so the low word comes first

# The values that satisfy an operator, as ranges [from, to) between 0 and top.
_RANGES: dict[str, Callable[[int, int], Spans]] = {
    "SCMP_CMP_NE": lambda value, top: ((0, value), (value + 1, top)),
    "SCMP_CMP_LT": lambda value, _: ((0, value),),
    "SCMP_CMP_LE": lambda value, _: ((0, value + 1),),
    "SCMP_CMP_EQ": lambda value, _: ((value, value + 1),),
    "SCMP_CMP_GE": lambda value, top: ((value, top),),
    "SCMP_CMP_GT": lambda value, top: ((value + 1, top),),
}


class Arguments:
    """Emits decisions; equal ones only once."""

    __slots__ = ("_assembler", "_emitted")

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self._emitted: dict[Decision, Label] = {}

    def decide(self, decision: Decision) -> Label:
        """A place that gives the answer of the first test that holds."""
        if not decision[0]:
            return self._assembler.give(decision[1])
        if decision not in self._emitted:
            self._emitted[decision] = self._emit(*decision)
        return self._emitted[decision]

    def _emit(self, tests: tuple[Test, ...], otherwise: int, bits: int) -> Label:
        label = self._assembler.give(otherwise)
        for group in reversed(_groups(tests)):
            if _single(group[0]):
                label = self._one_of(group, label, bits)
            else:
                comparisons, answer = group[0]
                missed, label = label, self._assembler.give(answer)
                for comparison in reversed(comparisons):
                    label = self._compare(comparison, label, missed, bits)
        return label

    def _one_of(self, group: Sequence[Test], missed: Label, bits: int) -> Label:
        """Tests of one value, such as the address families of socket(2): a search instead of a chain."""
        top = 1 << bits
        ranges = [
            (*span, answer) for ((_, operator, value, _),), answer in group for span in _spans(operator, value, top)
        ]
        labels = {answer: self._assembler.give(answer) for _, answer in group}
        starts = sorted({0, *(edge for first, end, _ in ranges for edge in (first, end) if edge < top)})
        pieces: list[tuple[int, Label]] = []
        for start in starts:
            answers = (labels[answer] for first, end, answer in ranges if first <= start < end)
            _extend(pieces, start, next(answers, missed))
        return self._select(group[0][0][0][0], pieces, bits)

    def _compare(self, comparison: Comparison, yes: Label, no: Label, bits: int) -> Label:
        index, operator, value, value_two = comparison
        if operator == "SCMP_CMP_MASKED_EQ":
            return self._masked(index, value, value_two, yes, no, bits)
        top = 1 << bits
        spans = _spans(operator, value, top)
        pieces: list[tuple[int, Label]] = []
        for start in sorted({0, *(edge for span in spans for edge in span if edge < top)}):
            _extend(pieces, start, yes if any(first <= start < end for first, end in spans) else no)
        return self._select(index, pieces, bits)

    def _masked(self, index: int, mask: int, value: int, yes: Label, no: Label, bits: int) -> Label:
        """``argument & mask == value & mask``; seccomp_rule_add(3) masks the value too."""
        label = yes
        for shift in range(0, bits, 32):
            if part := mask >> shift & _WORD:
                label = self._assembler.branch(JEQ, value >> shift & part, label, no)
                if part != _WORD:
                    label = self._assembler.mask(part, label)
                label = self._assembler.load(_ARGUMENTS + 8 * index + shift // 8, label)
        return label

    def _select(self, index: int, pieces: list[tuple[int, Label]], bits: int) -> Label:
        """Search argument ``index`` among ``pieces``: the high word first, the low one where that leaves a choice."""
        low = _ARGUMENTS + 8 * index
        if bits == 32:
            return self._search(low, pieces)
        highs: list[tuple[int, Label]] = []
        heads = {head for start, _ in pieces for head in (start >> 32, (start + _WORD) >> 32)}
        for head in sorted(heads - {1 << 32}):
            before = [label for start, label in pieces if start <= head << 32][-1]
            inside = [(start & _WORD, label) for start, label in pieces if start >> 32 == head and start & _WORD]
            _extend(highs, head, self._search(low, [(0, before), *inside]))
        return self._search(low + 4, highs)

    def _search(self, offset: int, pieces: list[tuple[int, Label]]) -> Label:
        if len(pieces) == 1:
            return pieces[0][1]
        return self._assembler.load(offset, self._assembler.search(pieces, [1] * len(pieces)))


def _spans(operator: str, value: int, top: int) -> Spans:
    return _RANGES[operator](value % top, top)


def _extend(pieces: list[tuple[int, Label]], start: int, label: Label) -> None:
    """Add a piece, unless it only goes on with the one before."""
    if not pieces or pieces[-1][1] != label:
        pieces.append((start, label))


def _single(test: Test) -> bool:
    comparisons, _ = test
    return len(comparisons) == 1 and comparisons[0][1] in _RANGES


def _groups(tests: tuple[Test, ...]) -> list[list[Test]]:
    """Neighbours that compare only one and the same argument belong together."""
    groups: list[list[Test]] = []
    for test in tests:
        last = groups[-1][0] if groups else None
        if last and _single(last) and _single(test) and last[0][0][0] == test[0][0][0]:
            groups[-1].append(test)
        else:
            groups.append([test])
    return groups
