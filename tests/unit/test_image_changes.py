"""Dockerfile instructions for ``import --change`` and ``commit --change``."""

from __future__ import annotations

from typing import Any

import pytest

from coracle.errors import UsageError
from coracle.image.changes import apply


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("CMD echo $HOME", {"Cmd": ["/bin/sh", "-c", "echo $HOME"]}),
        ("cmd []", {"Cmd": []}),
        ("CMD ['a']", {"Cmd": ["/bin/sh", "-c", "['a']"]}),
        ('CMD ["a", 1]', {"Cmd": ["/bin/sh", "-c", '["a", 1]']}),
        ('ENTRYPOINT ["/e"]', {"Entrypoint": ["/e"]}),
        ("ENV a=b", {"Env": ["a=b"]}),
        ('ENV a="b c" d=e', {"Env": ["a=b c", "d=e"]}),
        ("ENV a=b\\ c", {"Env": ["a=b c"]}),
        ("ENV a b c", {"Env": ["a=b c"]}),
        ("ENV a=", {"Env": ["a="]}),
        ("ENV a=b=c", {"Env": ["a=b=c"]}),
        ("ENV a it's old", {"Env": ["a=it's old"]}),
        ('LABEL "x y"="z"', {"Labels": {"x y": "z"}}),
        ("EXPOSE 80 443/TCP 53/udp 8000-8002", {"ExposedPorts": {
            key: {} for key in ("80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ("WORKDIR /w", {"WorkingDir": "/w"}),
        ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ("ONBUILD RUN true", {"OnBuild": ["RUN true"]}),
        ('SHELL ["/bin/bash", "-c"]', {"Shell": ["/bin/bash", "-c"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        ("HEALTHCHECK CMD true", {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}}),
        ('HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD ["t"]',
         {"Healthcheck": {"Interval": 90 * 10**9, "Timeout": 5 * 10**8, "Retries": 3, "Test": ["CMD", "t"]}}),
    ],
)  # fmt: skip
def test_changes(change: str, expected: dict[str, Any]) -> None:
    assert apply({}, [change]) == expected


def test_they_add_up_and_the_argument_stays() -> None:
    before = {"Env": ["A=1", "B=2"], "Labels": {"x": "1"}, "WorkingDir": "/a"}
    after = apply(before, ["ENV A=3", "ENV C=4", "LABEL y=2", "WORKDIR b", 'SHELL ["/s"]', "CMD x", "EXPOSE 1"])
    assert after == {
        "Env": ["B=2", "A=3", "C=4"],
        "Labels": {"x": "1", "y": "2"},
        "WorkingDir": "/a/b",
        "Shell": ["/s"],
        "Cmd": ["/s", "x"],
        "ExposedPorts": {"1/tcp": {}},
    }
    assert before == {"Env": ["A=1", "B=2"], "Labels": {"x": "1"}, "WorkingDir": "/a"}


@pytest.mark.parametrize(
    "change",
    [
        "", "RUN true", "COPY a b", "FROM x", "ENV", "ENV a", "ENV a=b c", 'ENV a="b', "ENV =b", "LABEL", "EXPOSE",
        "EXPOSE x", "EXPOSE 0", "EXPOSE 65536", "EXPOSE 9-1", "EXPOSE 80/xtp", "EXPOSE ٣", "VOLUME", 'VOLUME [""]',
        "USER", "WORKDIR", "STOPSIGNAL", "ONBUILD", "SHELL /bin/sh", "SHELL []", "HEALTHCHECK", "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=1x CMD t", "HEALTHCHECK --speed=1s CMD t", "HEALTHCHECK --retries=x CMD t",
    ],
)  # fmt: skip
def test_refused(change: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply({}, [change])
    assert repr(change) in str(caught.value)
