"""The features structure says what the runtime accepts."""

import json
import os
from pathlib import Path

import pytest

from coracle import record
from coracle.runtime import features as module
from coracle.runtime.features import features
from coracle.runtime.mount_options import mount_options
from coracle.runtime.spec import validate
from coracle.runtime.spec.default import default_spec

SCHEMA = Path(
    os.environ.get("GOMODCACHE", Path.home() / "go/pkg/mod"), "github.com/opencontainers/runtime-spec@v1.3.0/schema"
)


def violations(value, schema, document, path="$"):
    """What in ``value`` contradicts the JSON schema; the few keywords that the features schema uses."""
    if reference := schema.get("$ref"):
        file, _, pointer = reference.partition("#")
        document = json.loads((SCHEMA / file).read_text()) if file else document
        target = document
        for step in pointer.strip("/").split("/"):
            target = target[step]
        yield from violations(value, target, document, path)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        yield f"{path} is not {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} is {value!r}"
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name} is missing"
    for name, child in schema.get("properties", {}).items():
        if name in value:
            yield from violations(value[name], child, document, f"{path}.{name}")
    for index, item in enumerate(value if "items" in schema else []):
        yield from violations(item, schema["items"], document, f"{path}[{index}]")


@pytest.mark.skipif(not SCHEMA.exists(), reason="runtime-spec v1.3.0 is not in the Go module cache")
def test_features_follow_the_schema():
    schema = json.loads((SCHEMA / "features-schema.json").read_text())
    assert list(violations(features(), schema, schema)) == []
    assert list(violations({"ociVersionMin": 1}, schema, schema)) == [
        "$.ociVersionMax is missing",
        "$.ociVersionMin is not string",
    ]
    known = set(schema["properties"])
    assert set(features()) <= known  # "MUST NOT contain properties that are not defined" (features.md)


def test_structure():
    found = features()
    assert (found["ociVersionMin"], found["ociVersionMax"]) == ("1.0.0", "1.3.0")
    assert json.loads(record.dumps(found)) == found
    linux = found["linux"]
    assert "time" in linux["namespaces"]
    assert len(linux["capabilities"]) == 41
    assert set(linux["seccomp"]["supportedFlags"]) <= set(linux["seccomp"]["knownFlags"])
    assert linux["cgroup"]["v1"] and linux["cgroup"]["v2"]
    for name in ("apparmor", "selinux", "intelRdt", "netDevices"):
        assert isinstance(linux[name]["enabled"], bool), name


def test_both_versions_are_accepted():
    for name in ("ociVersionMin", "ociVersionMax"):
        validate({"ociVersion": features()[name], "root": {"path": "rootfs"}})


def test_what_is_listed_is_recognized():
    found = features()
    for option in found["mountOptions"]:
        assert mount_options([option]).data in ([], [(option, None)])
    spec = default_spec()
    linux = spec["linux"]
    for kind in found["linux"]["namespaces"]:
        linux["namespaces"] = [{"type": other} for other in sorted({kind, "uts", "mount"})]
        validate(spec)
    for hook in found["hooks"]:
        spec["hooks"] = {hook: [{"path": "/bin/true"}]}
        validate(spec)
    spec["process"]["capabilities"] = {"bounding": found["linux"]["capabilities"]}
    seccomp = found["linux"]["seccomp"]
    for action in seccomp["actions"]:
        linux["seccomp"] = {
            "defaultAction": action,
            "architectures": seccomp["archs"],
            "flags": seccomp["knownFlags"],
            "listenerPath": "/run/listener",
            "syscalls": [
                {"names": ["a"], "action": action, "args": [{"index": 0, "value": 0, "op": operator}]}
                for operator in seccomp["operators"]
            ],
        }
        validate(spec)
    for mode in found["linux"]["memoryPolicy"]["modes"]:
        linux["memoryPolicy"] = {"mode": mode, "flags": found["linux"]["memoryPolicy"]["flags"]}
        validate(spec)


def test_flags_are_probed_without_loading_a_filter():
    status = Path("/proc/self/status").read_text()
    before = [line for line in status.splitlines() if line.startswith("Seccomp")]
    assert module._kernel_knows(1 << 1)  # SECCOMP_FILTER_FLAG_LOG, since Linux 4.14
    assert not module._kernel_knows(1 << 30)
    assert [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Seccomp")] == before
