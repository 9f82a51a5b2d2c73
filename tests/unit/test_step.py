"""Steps as data, and how a list of them is done and undone."""

from __future__ import annotations

import os

import pytest

from coracle.errors import ConflictError, CoracleError, KernelError
from coracle.step import CHILD, HOST, INIT, JOIN, PLACES, Plan, Step, World, execute, failure, roll_back

ENOENT, EBUSY = 2, 16


class Noted(Step):
    """Notes what happens to it in ``log``, and fails as told."""

    __slots__ = ("fails", "log", "name", "stuck")

    def __init__(
        self,
        name: str,
        log: list[str] | None = None,
        fails: Exception | None = None,
        stuck: Exception | None = None,
        cause: str = "test",
    ) -> None:
        super().__init__(cause)
        self.name = name
        self.log = log if log is not None else []
        self.fails = fails
        self.stuck = stuck

    def do(self, world: World) -> None:
        self.log.append(f"do {self.name}")
        if self.fails:
            raise self.fails

    def undo(self, world: World) -> None:
        self.log.append(f"undo {self.name}")
        if self.stuck:
            raise self.stuck

    def fields(self) -> dict[str, object]:
        return {"name": self.name}

    def prose(self) -> str:
        return f"make {self.name}"

    def shell(self) -> list[str]:
        return []

    def hint(self, errno: int) -> str:
        return "look for it" if errno == ENOENT else ""


class Pair(Step):
    __slots__ = ("one", "two")
    place = CHILD

    def __init__(self, one: int, two: str, cause: str = "") -> None:
        super().__init__(cause)
        self.one = one
        self.two = two


class Triple(Pair):
    __slots__ = ("three",)


def world() -> tuple[World, list[str]]:
    warnings: list[str] = []
    return World(warnings.append), warnings


# -- data


def test_fields_are_all_slots_but_the_cause() -> None:
    assert Pair(1, "b", "x").fields() == {"one": 1, "two": "b"}
    triple = Triple(1, "b")
    assert triple.fields() == {"one": 1, "two": "b"}  # not set: not there
    triple.three = [3]
    assert triple.fields() == {"three": [3], "one": 1, "two": "b"}


def test_steps_are_equal_by_kind_and_fields() -> None:
    assert Pair(1, "b", "why") == Pair(1, "b", "because")
    assert hash(Pair(1, "b")) == hash(Pair(1, "b", "because"))
    assert Pair(1, "b") != Pair(1, "c")
    assert Pair(1, "b") != Triple(1, "b")
    assert Pair(1, "b") != (1, "b")
    assert len({Pair(1, "b"), Pair(1, "b"), Pair(2, "b")}) == 2


def test_a_step_shows_itself() -> None:
    assert repr(Pair(1, "b")) == "Pair(one=1, two='b')"


def test_a_bare_step_promises_nothing() -> None:
    step = Step("why")
    assert (step.place, step.hint(1), step.shell_words(), step.undo_shell()) == (HOST, "", {}, [])
    step.undo(world()[0])  # nothing to take back
    for method in (lambda: step.do(world()[0]), step.prose, step.shell):
        with pytest.raises(NotImplementedError):
            method()


def test_a_plan_by_place() -> None:
    steps: list[Step] = [Pair(1, ""), Noted("a"), Pair(2, ""), Noted("b")]
    plan = Plan(steps, 7, True)
    assert plan.at(CHILD) == [steps[0], steps[2]]
    assert plan.at(HOST) == [steps[1], steps[3]]
    assert plan.at(INIT) == []
    assert (plan.flags, plan.join_first) == (7, True)
    assert [step for place in PLACES for step in plan.at(place)] == [steps[1], steps[3], steps[0], steps[2]]
    assert PLACES.index(HOST) < PLACES.index(JOIN) < PLACES.index(CHILD) < PLACES.index(INIT)


# -- doing


def test_all_is_done_in_order() -> None:
    log: list[str] = []
    done: list[Step] = []
    steps = [Noted(name, log) for name in "abc"]
    execute(steps, world()[0], done)
    assert log == ["do a", "do b", "do c"] and done == steps


def test_the_first_failure_ends_it_and_counts_as_begun() -> None:
    log: list[str] = []
    done: list[Step] = []
    steps = [Noted("a", log), Noted("b", log, OSError(ENOENT, "gone", "/dev/x")), Noted("c", log)]
    with pytest.raises(KernelError) as caught:
        execute(steps, world()[0], done)
    assert log == ["do a", "do b"] and done == steps[:2]
    assert str(caught.value) == "make b /dev/x: no such file or directory (look for it)"
    assert isinstance(caught.value.__cause__, OSError)


def test_deliberate_errors_pass_unchanged() -> None:
    error = ConflictError("the name is taken", "choose another")
    with pytest.raises(ConflictError) as caught:
        execute([Noted("a", fails=error)], world()[0], [])
    assert caught.value is error


def test_mistakes_of_the_program_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        execute([Noted("a", fails=ZeroDivisionError())], world()[0], [])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a", OSError(EBUSY, "x"), "make a: device or resource busy"),
        ("a", OSError(EBUSY, "x", "/p"), "make a /p: device or resource busy"),
        ("/p", OSError(EBUSY, "x", "/p"), "make /p: device or resource busy"),  # named once
        ("a", OSError(EBUSY, "x", "relative"), "make a: device or resource busy"),
        ("a", OSError(EBUSY, "x", 7), "make a: device or resource busy"),
        ("a", OSError("no number"), "make a: success"),
    ],
)
def test_failures_in_one_line(name: str, error: OSError, message: str) -> None:
    found = failure(Noted(name), error)
    assert (str(found), found.errno) == (message, error.errno or 0)


# -- undoing


def test_undone_in_reverse_with_warnings_for_what_is_stuck() -> None:
    log: list[str] = []
    done: list[Step] = [
        Noted("a", log),
        Noted("b", log, stuck=OSError(EBUSY, os.strerror(EBUSY))),
        Noted("c", log, stuck=CoracleError("hangs", "wait")),
        Noted("d", log),
    ]
    here, warnings = world()
    roll_back(done, here)
    assert log == ["undo d", "undo c", "undo b", "undo a"]
    assert warnings == [
        "could not undo: make c: hangs (wait)",
        "could not undo: make b: [Errno 16] Device or resource busy",
    ]


def test_a_failed_plan_is_undone_from_the_step_that_failed() -> None:
    log: list[str] = []
    done: list[Step] = []
    here, warnings = world()
    with pytest.raises(KernelError):
        execute([Noted("a", log), Noted("b", log, OSError(ENOENT, "")), Noted("c", log)], here, done)
    roll_back(done, here)
    assert log == ["do a", "do b", "undo b", "undo a"] and warnings == []


# -- the world


def test_the_world_closes_what_is_still_open() -> None:
    here, _ = world()
    first, second = os.pipe()
    here.fds.update(first=first, second=second)
    os.close(second)  # its step has done that already
    here.close()
    assert here.fds == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    here.close()
