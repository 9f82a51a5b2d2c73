"""Image names: the grammar of github.com/distribution/reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.errors import UsageError
from coracle.image.reference import Reference, has_registry, is_digest, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("a/b/c:v1.2-x_y", "docker.io/a/b/c:v1.2-x_y", "a/b/c:v1.2-x_y"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("[2001:db8::1]/x:1", "[2001:db8::1]/x:1", "[2001:db8::1]/x:1"),
        ("Host/x", "Host/x:latest", "Host/x:latest"),  # upper case cannot be a path, so it is a host
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}", f"debian:12@{DIGEST}"),
        ("a.b/c", "a.b/c:latest", "a.b/c:latest"),
        ("a__b", "docker.io/library/a__b:latest", "a__b:latest"),
        ("a---b.c_d", "docker.io/library/a---b.c_d:latest", "a---b.c_d:latest"),
        ("x:" + "t" * 128, "docker.io/library/x:" + "t" * 128, "x:" + "t" * 128),
    ],
)
def test_names(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert (reference.canonical(), reference.familiar()) == (canonical, familiar)
    assert parse(reference.canonical()) == reference
    assert parse(reference.familiar()) == reference


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (":tag", "empty"),
        ("Debian", "lower case"),
        ("docker.io/Debian", "lower case"),
        ("a/B:x", "lower case"),
        ("debian:", "tag"),
        ("debian:-x", "tag"),
        ("debian:a b", "tag"),
        ("x:" + "t" * 129, "128"),
        ("a..b", "'a..b'"),
        ("a___b", "'a___b'"),
        ("a._b", "'a._b'"),
        ("-a", "'-a'"),
        ("a-", "'a-'"),
        ("a//b", "''"),
        ("a/", "''"),
        ("/a", "''"),
        ("a/../b", "'..'"),
        ("a b", "'a b'"),
        ("é", "'é'"),
        ("h.io:port/x", "port"),
        ("h.io:/x", "port"),
        ("-h.io/x", "host"),
        ("h..io/x", "host"),
        ("[::g]/x", "IPv6"),
        ("a@sha256:12", "digest"),
        ("a@md5:" + "0" * 32, "digest"),
        ("a@" + DIGEST.upper(), "digest"),
        ("0123456789abcdef" * 4, "image id"),
        ("a" * 256, "255"),
        ("a\n", "'a\\n'"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_upper_case_is_corrected_in_the_hint() -> None:
    with pytest.raises(UsageError) as caught:
        parse("Debian:12")
    assert "debian:12" in caught.value.hint


def test_long_rubbish_is_shortened() -> None:
    with pytest.raises(UsageError) as caught:
        parse("A" * 100_000)
    assert len(str(caught.value)) < 1000


def test_parts() -> None:
    reference = parse(f"quay.io:443/a/b:1@{DIGEST}")
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        "quay.io:443",
        "a/b",
        "1",
        DIGEST,
    )
    assert reference.name == "quay.io:443/a/b"
    assert parse("a@" + DIGEST).tag == ""
    assert parse("a").digest == ""


@pytest.mark.parametrize(("text", "expected"), [("a", False), ("a/b", False), ("a.b/c", True), ("localhost/c", True)])
def test_has_registry(text: str, expected: bool) -> None:
    assert has_registry(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "A" * 64,
        "sha256:../../../etc/passwd",
        "sha512:" + "0" * 64,
        7,
        None,
    ],
)
def test_no_digest(text: object) -> None:
    assert not is_digest(text)


def test_digests() -> None:
    assert is_digest(DIGEST)
    assert is_digest("sha512:" + "0" * 128)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = parse(text)
    except UsageError:
        return
    assert isinstance(reference, Reference)
    assert parse(reference.canonical()) == reference
    assert parse(reference.familiar()) == reference
    assert not any(part in ("..", ".", "") for part in reference.repository.split("/"))
