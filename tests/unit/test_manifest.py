"""Manifests, indexes and configs from outside are checked before they are believed."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coracle.errors import ContentError, CoracleError, NotFoundError, UnsupportedError, UsageError
from coracle.image import config, manifest
from coracle.image.manifest import Descriptor, Index, Manifest, Platform, parse, parse_platform, select

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def descriptor(**fields: Any) -> dict[str, Any]:
    return {"mediaType": manifest.OCI_LAYER, "digest": D1, "size": 1, **fields}


def image(**fields: Any) -> dict[str, Any]:
    base = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": descriptor(mediaType=manifest.OCI_CONFIG),
        "layers": [descriptor(digest=D2)],
    }
    return {key: value for key, value in {**base, **fields}.items() if value is not ...}


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_manifest() -> None:
    parsed = parse(encode(image(unknown={"kept": 1})), manifest.OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.config.digest == D1
    assert [layer.digest for layer in parsed.layers] == [D2]
    assert parsed.document["unknown"] == {"kept": 1}
    parsed.check_runnable()


@pytest.mark.parametrize("kind", [manifest.OCI_MANIFEST, manifest.DOCKER_MANIFEST])
def test_media_type_of_the_descriptor_counts_when_the_document_has_none(kind: str) -> None:
    assert parse(encode(image(mediaType=...)), kind).media_type == kind


def test_index() -> None:
    document = {"schemaVersion": 2, "manifests": [descriptor(mediaType=manifest.OCI_MANIFEST)]}
    parsed = parse(encode(document))
    assert isinstance(parsed, Index)
    assert [item.digest for item in parsed.manifests] == [D1]


def test_duplicate_layers_and_no_layers_are_legal() -> None:
    both = parse(encode(image(layers=[descriptor(), descriptor()])))
    assert isinstance(both, Manifest) and len(both.layers) == 2
    none = parse(encode(image(layers=[])))
    assert isinstance(none, Manifest) and none.layers == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"x":{"a":1,"a":2}}', "twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b" " * (4 << 20) + b"{}", "larger than"),
        (encode(image(schemaVersion=3)), "schemaVersion"),
        (encode(image(schemaVersion="2")), "schemaVersion"),
        (encode(image(schemaVersion=...)), "schemaVersion"),
        (encode(image(manifests=[])), "ambiguous"),
        (encode({"schemaVersion": 2, "manifests": [], "config": descriptor()}), "ambiguous"),
        (encode(image(mediaType=manifest.OCI_INDEX)), "has the fields of a manifest"),
        (
            encode({"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "manifests": []}),
            "has the fields of an index",
        ),
        (encode(image(mediaType="application/json")), "has the fields of"),
        (encode(image(config=...)), "manifest config"),
        (encode(image(config=[])), "manifest config"),
        (encode(image(layers=...)), "layers is not a list"),
        (encode(image(layers={})), "layers is not a list"),
        (encode(image(layers=[7])), "layers[0] is not a descriptor"),
        (encode(image(layers=[descriptor()] * 501)), "501 layers"),
        (encode(image(layers=[descriptor(digest="sha256:../../../../etc/passwd")])), "layers[0].digest"),
        (encode(image(layers=[descriptor(digest="sha256:" + "A" * 64)])), "layers[0].digest"),
        (encode(image(layers=[descriptor(digest=None)])), "layers[0].digest"),
        (encode(image(layers=[descriptor(size=-1)])), "layers[0].size"),
        (encode(image(layers=[descriptor(size=1.5)])), "layers[0].size"),
        (encode(image(layers=[descriptor(size=True)])), "layers[0].size"),
        (encode(image(layers=[descriptor(size=1 << 63)])), "layers[0].size"),
        (encode(image(layers=[descriptor(size="1")])), "layers[0].size"),
        (encode(image(layers=[descriptor(mediaType=7)])), "layers[0].mediaType"),
        (encode(image(layers=[descriptor(annotations=[])])), "layers[0].annotations"),
        (encode({"schemaVersion": 2, "manifests": {}}), "manifests is not a list"),
    ],
)
def test_malformed(data: bytes, problem: str) -> None:
    with pytest.raises(ContentError) as caught:
        parse(data)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 400


def test_document_and_descriptor_must_agree() -> None:
    with pytest.raises(ContentError, match="says it is"):
        parse(encode(image()), manifest.OCI_INDEX)


@pytest.mark.parametrize("document", [{"schemaVersion": 1}, {"schemaVersion": 1, "fsLayers": []}, {"fsLayers": []}])
def test_schema_1_is_refused_with_a_way_out(document: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse(encode(document))
    assert "schema 1" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("document", "error", "problem"),
    [
        (
            image(config=descriptor(mediaType="application/vnd.cncf.helm.config.v1+json")),
            ContentError,
            "not a container image",
        ),
        (image(layers=[descriptor(mediaType=manifest.OCI_LAYER + "+encrypted")]), UnsupportedError, "encrypted"),
        (image(layers=[descriptor(mediaType="text/plain")]), UnsupportedError, "unknown type"),
    ],
)
def test_not_runnable(document: dict[str, Any], error: type[CoracleError], problem: str) -> None:
    parsed = parse(encode(document))
    assert isinstance(parsed, Manifest)
    with pytest.raises(error, match=problem):
        parsed.check_runnable()


def offers(*platforms: tuple[str, ...] | None) -> list[Descriptor]:
    keys = ("os", "architecture", "variant")
    return [
        manifest.parse_descriptor(
            descriptor(
                mediaType=manifest.OCI_MANIFEST,
                digest=f"sha256:{number:064x}",
                platform=dict(zip(keys, platform, strict=False)) if platform else None,
            ),
            "x",
        )
        for number, platform in enumerate(platforms)
    ]


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", [("linux", "arm64"), ("linux", "amd64")], 1),
        ("linux/amd64", [("linux", "amd64"), ("linux", "amd64")], 0),
        ("linux/amd64", [("windows", "amd64"), ("linux", "amd64")], 1),
        ("linux/amd64", [("linux", "amd64", "v3"), ("linux", "amd64")], 1),
        ("linux/amd64/v3", [("linux", "amd64"), ("linux", "amd64", "v2"), ("linux", "amd64", "v4")], 1),
        ("linux/arm64", [("linux", "arm64", "v8")], 0),
        ("linux/arm64/v8", [("linux", "arm64")], 0),
        ("linux/arm/v7", [("linux", "arm", "v5"), ("linux", "arm", "v6")], 1),
        ("linux/arm/v6", [("linux", "arm", "v7"), ("linux", "arm", "v5")], 1),
        ("linux/amd64", [None], 0),
        ("linux/amd64", [None, ("linux", "amd64")], 1),
        ("linux/amd64", [("unknown", "unknown"), ("linux", "amd64")], 1),
    ],
)
def test_platform_choice(wanted: str, offered: list[Any], chosen: int) -> None:
    descriptors = offers(*offered)
    assert select(descriptors, parse_platform(wanted)) is descriptors[chosen]


@pytest.mark.parametrize(
    "offered", [[], [("linux", "arm", "v7")], [("unknown", "unknown")], [("linux", "arm64", "v9")]]
)
def test_no_platform_fits(offered: list[Any]) -> None:
    with pytest.raises(NotFoundError) as caught:
        select(offers(*offered), parse_platform("linux/arm/v6"))
    assert "linux/arm/v6" in str(caught.value)


def test_attestations_are_never_chosen() -> None:
    attestation = offers(("linux", "amd64"))[0]
    attestation.document["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    image_itself = offers(("linux", "amd64"))[0]
    assert select([attestation, image_itself], Platform("linux", "amd64")) is image_itself


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/arm64", "linux/arm64/v8"),
        ("amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v6"),
    ],
)
def test_platform_syntax(text: str, platform: str) -> None:
    assert str(parse_platform(text)) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d"])
def test_platform_syntax_errors(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


def test_host_platform() -> None:
    known = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
    assert manifest.host_platform().os == "linux"
    assert known is None or manifest.host_platform().architecture == known


# -- image config


def settings_document(**inner: Any) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "config": inner, "rootfs": {"type": "layers", "diff_ids": [D1]}}


def test_config() -> None:
    parsed = config.parse(
        encode(settings_document(Cmd=["a"], Env=["A=b", "odd"], Labels={"x": "y"}, User=None, Extra=1))
    )
    assert parsed.run == {"Cmd": ["a"], "Env": ["A=b", "odd"], "Labels": {"x": "y"}}
    assert parsed.diff_ids == [D1]
    assert parsed.text("architecture") == "amd64"
    assert parsed.text("variant") == ""


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "rootfs"),
        ({"rootfs": {"type": "tarball"}}, "rootfs"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}, "diff_ids"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "diff_ids"),
        ({**settings_document(), "os": 7}, "os"),
        ({**settings_document(), "history": [7]}, "history"),
        ({**settings_document(), "config": []}, "config"),
        (settings_document(Cmd="sh"), "Cmd"),
        (settings_document(Cmd=["a\0b"]), "Cmd"),
        (settings_document(Env=[1]), "Env"),
        (settings_document(User=0), "User"),
        (settings_document(WorkingDir="/\0"), "WorkingDir"),
        (settings_document(Labels={"a": 1}), "Labels"),
        (settings_document(Volumes=["/v"]), "Volumes"),
        (settings_document(ArgsEscaped="yes"), "ArgsEscaped"),
    ],
)
def test_config_errors(document: dict[str, Any], problem: str) -> None:
    if document.get("config") == []:
        document["config"] = [1]
    with pytest.raises(ContentError) as caught:
        config.parse(encode(document))
    assert problem in str(caught.value)


# -- anything at all

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([D1, manifest.OCI_LAYER]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_MANIFEST_KEYS = st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations"])


@settings(max_examples=200)
@given(st.dictionaries(_MANIFEST_KEYS, _JSON))
def test_any_manifest_parses_or_is_refused(changes: dict[str, Any]) -> None:
    try:
        data = encode({**image(), **changes})
        parsed = parse(data)
    except (ContentError, UnsupportedError):
        return
    assert isinstance(parsed, (Manifest, Index))


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["config", "rootfs", "history", "os", "created"]), _JSON), _JSON)
def test_any_config_parses_or_is_refused(changes: dict[str, Any], inner: Any) -> None:
    for document in ({**settings_document(), **changes}, settings_document(Cmd=inner), settings_document(Env=inner)):
        try:
            parsed = config.parse(encode(document))
        except ContentError:
            continue
        assert all(isinstance(item, str) for item in parsed.run.get("Cmd", []))


@settings(max_examples=200)
@given(st.binary(max_size=64))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ContentError, UnsupportedError)):
        parse(data)
