"""ENTRYPOINT x CMD x arguments x --entrypoint, as docker documents the table."""

from __future__ import annotations

import pytest

from coracle.engine.entrypoint import argv
from coracle.errors import CommandNotFoundError, ContentError, UsageError

SHELL = ["/bin/sh", "-c", "exec server"]


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "arguments", "override", "expected"),
    [
        (None, ["sh"], [], None, ["sh"]),
        (None, ["sh"], ["ls", "-l"], None, ["ls", "-l"]),
        (["server"], ["--port", "80"], [], None, ["server", "--port", "80"]),
        (["server"], ["--port", "80"], ["--help"], None, ["server", "--help"]),
        (["server"], None, [], None, ["server"]),
        ([], ["sh"], [], None, ["sh"]),
        # The shell form of ENTRYPOINT gets the arguments too; sh -c ignores them, which is docker's behaviour.
        (SHELL, ["--port"], [], None, [*SHELL, "--port"]),
        (None, SHELL, [], None, SHELL),
        # --entrypoint drops the image's CMD
        (["server"], ["--port", "80"], [], "sh", ["sh"]),
        (["server"], ["--port", "80"], ["-c", "x"], "sh", ["sh", "-c", "x"]),
        (["server"], ["sh"], ["ls"], "", ["ls"]),
        (["server"], None, ["x"], '["a", "b c"]', ["a", "b c", "x"]),
        (["server"], None, ["x"], "[", ["[", "x"]),
        (["server"], None, ["x"], "[1]", ["[1]", "x"]),
        (["server"], None, ["x"], "[]", ["x"]),
        ("server --port", None, [], None, ["server --port"]),  # what docker before 1.10 stored
    ],
)
def test_table(
    entrypoint: object, cmd: object, arguments: list[str], override: str | None, expected: list[str]
) -> None:
    assert argv({"Entrypoint": entrypoint, "Cmd": cmd}, arguments, override) == expected


@pytest.mark.parametrize(
    ("image", "arguments", "override"),
    [({}, [], None), ({"Cmd": ["sh"]}, [], ""), ({"Cmd": []}, [], None), ({"Cmd": ["sh"]}, [], "[]")],
)
def test_nothing_to_execute(image: dict[str, object], arguments: list[str], override: str | None) -> None:
    with pytest.raises(UsageError, match=r"^no command specified"):
        argv(image, arguments, override)


def test_an_empty_program_name_is_not_found() -> None:
    with pytest.raises(CommandNotFoundError) as caught:
        argv({}, [""])
    assert caught.value.exit_code == 127


@pytest.mark.parametrize("value", [7, ["a", 7], {"a": 1}])
def test_damaged_images(value: object) -> None:
    with pytest.raises(ContentError, match="Entrypoint of the image is not a list of strings"):
        argv({"Entrypoint": value}, [])


def test_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        argv({}, ["a\0b"])


def test_the_image_is_not_changed() -> None:
    image = {"Entrypoint": ["a"], "Cmd": ["b"]}
    argv(image, ["c"]).append("d")
    assert image == {"Entrypoint": ["a"], "Cmd": ["b"]}
