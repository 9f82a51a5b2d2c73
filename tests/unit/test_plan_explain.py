"""A plan as prose, shell and JSON: pure text, made without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from planning import ALL, config, names, plan_of

from coracle import explain
from coracle.explain.document import plain
from coracle.explain.order import HEADINGS, in_order
from coracle.explain.script import CLEANING
from coracle.linux.namespace import IdMap
from coracle.runtime.steps import identity, masks, mounts, rootfs, settings
from coracle.step import ENTER, HOST, PLACES, Plan, Step

ID = "0123456789abcdef" * 4
MAPS = {key: [{"containerID": 0, "hostID": 9, "size": 2}] for key in ("uidMappings", "gidMappings")}


class Said(Step):
    """A step with whatever it is to say."""

    __slots__ = ("file", "lines", "place", "sentence", "undone", "words")

    def __init__(
        self,
        sentence: str,
        lines: list[str] | None = None,
        place: str = HOST,
        cause: str = "because",
        words: dict[str, list[str]] | None = None,
        undone: list[str] | None = None,
    ) -> None:
        super().__init__(cause)
        self.sentence = sentence
        self.lines = lines or []
        self.place = place
        self.words = words or {}
        self.undone = undone or []

    def prose(self) -> str:
        return self.sentence

    def shell(self) -> list[str]:
        return self.lines

    def shell_words(self) -> dict[str, list[str]]:
        return self.words

    def undo_shell(self) -> list[str]:
        return self.undone


# -- prose


def test_numbered_sentences_below_headings() -> None:
    text = explain.prose(Plan([Said("enter", place=ENTER), Said("begin"), Said("go on", cause="why not")]))
    begin = "   1. begin  [because]\n   2. go on  [why not]\n"
    assert text == f"{HEADINGS[HOST]}\n{begin}\n{HEADINGS[ENTER]}\n   3. enter  [because]\n"


def test_headings_are_those_of_all_places_in_order() -> None:
    assert tuple(HEADINGS) == PLACES
    plan = plan_of(config(*ALL))
    assert in_order(plan) == [step for place in PLACES for step in plan.at(place)]


def test_reasons_are_in_the_users_words() -> None:
    text = explain.prose(
        Plan([Said("limit it", cause="linux.resources.memory.limit")]), {"linux.resources.memory.limit": "-m 64m"}.get
    )  # type: ignore[arg-type]
    assert text.endswith("1. limit it  [-m 64m]\n")


def test_long_runs_are_one_sentence() -> None:
    steps: list[Step] = [
        Said("first"),
        *(masks.Mask(f"/m{n}", f"linux.maskedPaths[{n}]") for n in range(4)),
        *(masks.ReadonlyPath(f"/r{n}", "x") for n in range(3)),
        *(settings.Sysctl(f"kernel.k{n}", str(n), "x") for n in range(3)),
        settings.Sysctl("kernel.other", "9", "--sysctl kernel.other=9"),
    ]
    text = explain.prose(Plan(steps), lambda cause: cause if cause.startswith("--") else "default")
    assert [line.strip() for line in text.splitlines() if "[" in line] == [
        "1. first  [default]",
        "2-5. mask /m0, /m1, /m2, /m3  [default]",
        "6-8. make /r0, /r1, /r2 read-only  [default]",
        "9-11. set kernel parameter kernel.k0 to 0, kernel.k1 to 1, kernel.k2 to 2  [default]",
        "12. set kernel parameter kernel.other to 9  [--sysctl kernel.other=9]",
    ]


def test_short_runs_and_other_kinds_stay_apart() -> None:
    tmpfs = [mounts.NewFilesystem("tmpfs", "tmpfs", f"/t{n}", mounts_options(), "x") for n in range(5)]
    steps: list[Step] = [masks.Mask("/a", "x"), masks.Mask("/b", "x"), *tmpfs]
    text = explain.prose(Plan(steps))
    assert len(text.splitlines()) == 3 + 5 + 2  # two places, a blank line between them
    assert "mask /a  [x]" in text and "mask /b  [x]" in text


def mounts_options() -> Any:
    from coracle.runtime.mount_options import mount_options

    return mount_options([])


def test_equal_sentences_do_not_vanish() -> None:
    text = explain.prose(Plan([masks.Mask("/a", "x")] * 3))
    assert text.endswith("   1-3. mask /a  [x]\n")


def test_ids_are_short() -> None:
    text = explain.prose(Plan([Said(f"make /c/{ID}/x and {ID}", cause=f"image sha256:{ID}")]))
    assert "make /c/0123456789ab/x and 0123456789ab  [image sha256:0123456789ab]" in text
    assert "abc" + ID in explain.prose(Plan([Said("abc" + ID)]))  # not a digest: longer


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_are_wrapped(width: int) -> None:
    words = "a sentence of many words with-hyphens in it that goes on and on, /and/has/a/path/" + "x" * 30
    text = explain.prose(Plan([Said(words)] * 2), width=width)
    body = [line for line in text.splitlines()[1:] if line]
    assert all(len(line) <= width or " " not in line.strip() for line in body)
    assert all(line.startswith(("   1. ", "   2. ", "       ")) for line in body)
    assert " ".join(" ".join(body).split()).count(words) == 2


def test_no_width_no_wrapping() -> None:
    assert len(explain.prose(Plan([Said("word " * 100)])).splitlines()) == 2


# -- JSON


def check(value: Any, shape: Any, where: str = "$") -> None:
    """``value`` has the ``shape``: a type, a dict of the very keys, a list of one, or a set of values."""
    if isinstance(shape, dict):
        assert isinstance(value, dict) and set(value) == set(shape), where
        for key in shape:
            check(value[key], shape[key], f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for index, item in enumerate(value):
            check(item, shape[0], f"{where}[{index}]")
    elif isinstance(shape, set):
        assert value in shape, where
    else:
        assert isinstance(value, shape), where


SHAPE = {
    "explainVersion": {1},
    "steps": [
        {
            "place": set(PLACES),
            "step": str,
            "cause": str,
            "prose": str,
            "shell": [str],
            "shellWords": dict,
            "fields": dict,
        }
    ],
}


def full() -> Plan:
    spec = config(*ALL, "user", maskedPaths=["/a", "/b", "/c"], **MAPS, sysctl={"kernel.x": "1"})
    spec["mounts"] = [
        {"destination": "/t", "type": "tmpfs", "options": ["ro", "nosuid", "size=1m"]},
        {"destination": "/b", "type": "bind", "source": "/", "options": ["rbind", "rslave"], **MAPS},
    ]
    return plan_of(spec)


def test_the_document_has_a_shape() -> None:
    document = json.loads(explain.as_json(full()))
    check(document, SHAPE)
    assert len(document["steps"]) == len(full().steps)
    assert [step["step"] for step in document["steps"]] == names(in_order(full()))
    for step in document["steps"]:
        assert all(
            isinstance(words, list) and all(isinstance(word, str) for word in words)
            for words in step["shellWords"].values()
        )


def test_the_document_is_stable() -> None:
    assert explain.as_json(full()) == explain.as_json(full())
    step = json.loads(explain.as_json(Plan([identity.SetIds(5, 6, [7], "process.user")])))["steps"][0]
    assert step == {
        "place": "init",
        "step": "SetIds",
        "cause": "process.user",
        "prose": "become user 5, group 6 and groups 7",
        "shell": [],
        "shellWords": {"setpriv": ["--reuid=5", "--regid=6", "--groups=7"]},
        "fields": {"denied": False, "gid": 6, "groups": [7], "uid": 5},
    }


def test_nothing_is_folded_or_cut_in_the_document() -> None:
    steps: list[Step] = [masks.Mask(f"/{ID}/{n}", "x") for n in range(5)]
    document = json.loads(explain.as_json(Plan(steps)))
    assert [step["fields"]["path"] for step in document["steps"]] == [f"/{ID}/{n}" for n in range(5)]


def test_values_become_plain() -> None:
    class Fielded:
        def fields(self) -> dict[str, object]:
            return {"a": {2, 1}}

    assert plain([b"\xff", (1, None), {1: True}, frozenset("b"), IdMap(0, 5, 1), Fielded()]) == [
        "\ufffd", [1, None], {"1": True}, ["b"], "0 5 1", {"a": [1, 2]},
    ]  # fmt: skip


# -- shell


def lines_of(plan: Plan, **more: Any) -> list[str]:
    return explain.shell(plan, **more).splitlines()


def test_the_script_is_valid_and_complete() -> None:
    text = explain.shell(full(), "a title")
    assert text.startswith("#!/bin/sh\n# a title\n#\n# The same container by hand.  Run it as root.\n")
    for step in full().steps:
        assert all(line in text for line in step.shell()), step
    for part in (text, *_parts(text)):
        checked = subprocess.run(["/bin/sh", "-n"], input=part, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def _parts(text: str) -> list[str]:
    return [
        text.partition(f"<< '{mark}'\n")[2].partition(f"\n{mark}\n")[0] for mark in ("ENGINE", "INSIDE") if mark in text
    ]


def test_one_line_makes_all_namespaces() -> None:
    line = next(line for line in lines_of(plan_of(config(*ALL, "time"))) if "unshare --propagation" in line)
    assert line == (
        "exec unshare --propagation unchanged --mount --pid --ipc --uts --net --time --cgroup --fork --kill-child \\"
    )


def test_existing_namespaces_are_entered_first(tmp_path: Any) -> None:
    lines = lines_of(plan_of(config("mount", f"network={tmp_path}", f"ipc={tmp_path}")))
    at = next(index for index, line in enumerate(lines) if line.startswith("exec nsenter"))
    assert lines[at] == f"exec nsenter --ipc={tmp_path} --net={tmp_path} \\"
    assert lines[at + 1].startswith("  unshare --propagation unchanged --mount --fork")


def test_a_user_namespace_is_mapped_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    text = explain.shell(full())
    parts = ["unshare --user", "printf '0 9 2\\n' > /proc/$USERNS/gid_map", "exec nsenter --user=/proc/$USERNS/ns/user"]
    assert [text.count(part) for part in parts] == [1, 1, 1]
    assert sorted(parts, key=text.index) == parts
    stage = text.partition("<< 'ENGINE'\n")[2].partition("# --- Into the new process")[0]
    assert 'mount --rbind /bundle/rootfs "$ROOT"' in stage and '"$STAGE/mounts"/%2Fb' in stage
    assert 'export ROOT="$STAGE/mounts/root"' in text


def test_nothing_is_staged_without_need() -> None:
    text = explain.shell(plan_of(config(*ALL)))
    assert "ENGINE" not in text and "export ROOT=/bundle/rootfs\n" in text


def test_the_engine_waits_only_where_it_has_something_to_do() -> None:
    plain_text = explain.shell(plan_of(config(*ALL)))
    assert plain_text.count("echo go") == 1 and plain_text.count("read -r _ <&5") == 1
    busy = plan_of(config(*ALL, netDevices={"eth7": {}}))
    busy.steps += plan_of({**config("mount"), "hooks": {"prestart": [{"path": "/h"}]}}).at("ready")
    text = explain.shell(busy)
    assert text.count("echo go") == 3 and text.count("read -r _ <&5") == 3
    engine = text.partition("\n(\n")[2].partition("\n) <")[0]
    assert engine.index("ip link set eth7 netns") < engine.index("env -i /h") < engine.index("pivot_root . .")


def test_long_words_get_names() -> None:
    lines = [f"mkdir /c/{ID}", f"echo '{ID}' > \"/c/{ID}\"/x", f"# {ID}", f"echo 'it'\"'\"'s {ID}'"]
    text = explain.shell(Plan([Said("do", lines, undone=[f"rmdir /c/{ID}"])]), variables={"ID": ID})
    assert f"export ID={ID}" in text
    assert "mkdir /c/$ID" in text
    assert f"echo '{ID}' > \"/c/$ID\"/x" in text  # not in single quotes, where it would stay a name
    assert f"echo 'it'\"'\"'s {ID}'" in text
    assert f"#   rmdir /c/{ID}\n" in text  # to be copied to another shell


def test_what_is_made_is_removed_in_reverse() -> None:
    steps: list[Step] = [Said("a", undone=["rm a1", "rm a2"]), Said("b"), Said("c", undone=["rm c"])]
    assert explain.shell(Plan(steps)).endswith(f"\n{CLEANING}\n#   rm c\n#   rm a1\n#   rm a2\n")
    assert CLEANING not in explain.shell(Plan([Said("b")]))


def test_definitions_come_once_and_before_their_use() -> None:
    text = explain.shell(plan_of(config("mount", maskedPaths=["/a", "/b"], readonlyPaths=["/c"])))
    for name in ("mask", "freeze", "device"):
        assert text.count(f"\n{name}() {{") == 1
        assert text.index(f"\n{name}() {{") < text.index(f"\n{name} ")


def finale(**process: Any) -> str:
    text = explain.shell(plan_of(config("mount", process=process)))
    return text.partition("# give up rights")[2].partition("\nINSIDE\n")[0].partition("\n")[2]


def test_the_last_lines() -> None:
    assert finale(args=["sh", "-c", "echo it's"], env=["A=b c", "HOME=/"], cwd="/w x", noNewPrivileges=True) == (
        "exec env -i 'A=b c' HOME=/ \\\n"
        '  "$SETSID" "$SETPRIV" --bounding-set=-all --reuid=0 --regid=0 --clear-groups '
        "--inh-caps=-all --ambient-caps=-all --no-new-privs \\\n"
        "  /bin/sh -euc 'echo ready >&4; read -r _ <&5; exec 4>&- 5<&-; "
        'cd -- "$0"; unset PWD OLDPWD; exec "$@"\' \\\n'
        "  '/w x' sh -c 'echo it'\"'\"'s'"
    )


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        (["A=b"], {"A": "b", "HOME": "/"}),
        (["HOME=/h", "E="], {"HOME": "/h", "E": ""}),
        (["PWD=/x y", "OLDPWD=it's", "HOME=/"], {"PWD": "/x y", "OLDPWD": "it's", "HOME": "/"}),
        (['A=$HOME `id` "q" \\', "HOME=/"], {"A": '$HOME `id` "q" \\', "HOME": "/"}),
        (["A=1", "A=2", "HOME=/"], {"A": "2", "HOME": "/"}),
    ],
)
def test_the_environment_arrives_as_it_is(environment: list[str], seen: dict[str, str]) -> None:
    """The last lines are run for true, but for the rights and the engine that they wait for."""
    program = "import os, json; print(json.dumps([dict(os.environb and os.environ), os.getcwd()]))"
    text = finale(args=[sys.executable, "-ISc", program], env=environment, cwd="/usr")
    start, _, rest = text.partition('"$SETSID"')
    text = start + rest.partition(" \\\n")[2]
    script = f"HOME=/\necho > go\n{text} 4> ready 5< go\n"
    done = _in_a_directory(script)
    found, cwd = json.loads(done)
    for own in ("LC_CTYPE", "_", "SHLVL"):  # Python's (PEP 538), and bash's where that is /bin/sh
        found.pop(own, None)
    assert (found, cwd) == (seen, "/usr")


def _in_a_directory(script: str) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(["/bin/sh", "-eu"], input=script, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_that_a_shell_cannot_export_are_named() -> None:
    text = explain.shell(plan_of(config("mount", process={"env": ["A.B=c d", "OK=1", "1X=2"]})))
    assert "# /bin/sh drops variables with such names: 'A.B=c d' 1X=2\n" in text


def test_commands_before_the_program() -> None:
    text = explain.shell(plan_of(config("mount", personality={"domain": "LINUX32"})))
    assert '"$SETSID" "$SETARCH" linux32 "$SETPRIV" --bounding-set' in text
    assert "\nSETARCH=$(command -v setarch)\n" in text


def test_with_a_terminal_no_new_session() -> None:
    assert "setsid" not in explain.shell(plan_of(config("mount", process={"terminal": True})))


def test_without_a_process_there_is_nothing_to_become() -> None:
    spec = config("mount")
    del spec["process"]
    lines = lines_of(plan_of(spec))
    assert lines[lines.index("INSIDE") - 1] == "exec sleep infinity"
    assert "echo go" not in lines


def test_the_propagation_of_the_root_is_set_after_the_pivot() -> None:
    text = explain.shell(plan_of(config("mount", rootfsPropagation="shared")))
    line = next(line for line in text.splitlines() if "--make-shared /proc/$CHILD/root" in line)
    assert line.index("--make-rprivate /") < line.index("--make-shared") < line.index("umount --lazy /")
    assert "mount --make-rshared" not in text and 'export ROOT="$STAGE/mounts/root"' in text


def test_a_user_is_told_how() -> None:
    assert "# The same container by hand.  Run it somehow.\n" in explain.shell(Plan([]), how="somehow")


def test_steps_without_lines_have_no_comment() -> None:
    text = explain.shell(Plan([Said("silent"), Said("loud", ["true"]), rootfs.Pivot("x")]))
    assert "silent" not in text and "# loud [because]\ntrue\n" in text
