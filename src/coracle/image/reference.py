"""Names of images: ``[registry[:port]/]repository[:tag][@digest]``.

The grammar is that of github.com/distribution/reference, which Docker, containerd and podman
share, written as character checks because ``re`` costs 7 ms on the path of ``run``.
"""

from __future__ import annotations

from coracle.errors import UsageError

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_MAX_NAME = 255
_MAX_TAG = 128
_MAX_TEXT = 1024  # name, tag and the longest digest fit with room to spare

_DIGITS = frozenset("0123456789")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz") | _DIGITS
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG_FIRST = _ALNUM | {"_"}
_TAG = _TAG_FIRST | frozenset(".-")
HEX = frozenset("0123456789abcdef")

# image-spec descriptor.md, "Registered Algorithms": name → length of the hexadecimal part
ALGORITHMS = {"sha256": 64, "sha512": 128}


def is_digest(text: object) -> bool:
    """Whether ``text`` is ``sha256:<64 hex>`` or ``sha512:<128 hex>``; anything else may be a path (CVE-2024-3727)."""
    if not isinstance(text, str):
        return False
    algorithm, _, encoded = text.partition(":")
    return ALGORITHMS.get(algorithm) == len(encoded) and HEX.issuperset(encoded)


class Reference:
    """A parsed name.  ``tag`` is empty when a digest stands alone, ``digest`` is empty when none was given."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def canonical(self) -> str:
        """The full name, as containerd and podman store it: ``docker.io/library/debian:12``."""
        return self.name + self._suffix()

    def familiar_name(self) -> str:
        """The name a person types: ``debian`` for ``docker.io/library/debian``."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        return self.repository.removeprefix(_OFFICIAL) if self.repository.count("/") == 1 else self.repository

    def familiar(self) -> str:
        """The whole reference as a person types it: ``debian:12``."""
        return self.familiar_name() + self._suffix()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.canonical() == other.canonical()

    def __hash__(self) -> int:
        return hash(self.canonical())

    def __repr__(self) -> str:
        return f"Reference({self.canonical()!r})"


def parse(text: str) -> Reference:
    """The reference that ``text`` means, with Docker's defaults filled in.

    :raises UsageError: naming the part that breaks the grammar.
    """
    if len(text) > _MAX_TEXT:
        raise _wrong(text, f"it is longer than {_MAX_TEXT} characters")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _wrong(text, f"{digest!r} is not a digest such as sha256:<64 hexadecimal digits>")
    name, tag = _split_tag(name)
    if tag is not None:
        _check_tag(text, tag)
    if not name:
        raise _wrong(text, "the name is empty")
    if len(name) == 64 and HEX.issuperset(name):
        raise _wrong(text, "64 hexadecimal digits would look like an image id")
    registry, repository = _split_registry(name)
    _check_repository(text, repository)
    if registry != DEFAULT_REGISTRY:
        _check_registry(text, registry)
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise _wrong(text, f"the name is longer than {_MAX_NAME} characters")
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def has_registry(text: str) -> bool:
    """Whether ``text`` names its registry itself, rather than leaving it to the default."""
    first, slash, _ = text.partition("/")
    return bool(slash) and _is_registry(first)


def _wrong(text: str, problem: str, hint: str = "") -> UsageError:
    shown = text if len(text) <= 300 else text[:300] + "..."
    return UsageError(f"invalid image name {shown!r}: {problem}", hint)


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash starts the tag; any other belongs to the registry's port."""
    colon = name.rfind(":")
    if colon <= name.rfind("/"):
        return name, None
    return name[:colon], name[colon + 1 :]


def _is_registry(first: str) -> bool:
    """distribution/reference splitDockerDomain: what looks like a host, or cannot be a path component."""
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        registry, repository = DEFAULT_REGISTRY, name
    else:
        registry, repository = first, rest
    if registry == "index.docker.io":  # the registry's name before 2014
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def _check_tag(text: str, tag: str) -> None:
    if not tag or tag[0] not in _TAG_FIRST or not _TAG.issuperset(tag):
        raise _wrong(text, f"the tag {tag!r} is not letters, digits, '_', '.' and '-'")
    if len(tag) > _MAX_TAG:
        raise _wrong(text, f"the tag is longer than {_MAX_TAG} characters")


def _check_repository(text: str, repository: str) -> None:
    if repository != repository.lower():
        raise _wrong(text, "repository names are lower case", f"did you mean {text.lower()}?")
    for component in repository.split("/"):
        if not _is_path_component(component):
            raise _wrong(text, f"the part {component!r} is not lower-case letters and digits joined by '.', '_' or '-'")


def _is_path_component(component: str) -> bool:
    """alpha-numeric [separator alpha-numeric]*, where a separator is ``.``, ``_``, ``__`` or dashes."""
    separator = ""
    previous_was_name = False
    for character in component:
        if character in _LOWER:
            if separator and not (separator in (".", "_", "__") or separator == "-" * len(separator)):
                return False
            separator = ""
            previous_was_name = True
        elif character in "._-" and previous_was_name:
            separator += character
        else:
            return False
    return previous_was_name and not separator


def _check_registry(text: str, registry: str) -> None:
    host, port = _split_port(registry)
    if port is not None and not (port and _DIGITS.issuperset(port)):
        raise _wrong(text, f"the port {port!r} is not a number")
    if host.startswith("["):
        address = host[1:-1] if host.endswith("]") else ""
        if not address or not (HEX | frozenset("ABCDEF:.")).issuperset(address):
            raise _wrong(text, f"{host!r} is not an IPv6 address in brackets")
        return
    for label in host.split("."):
        if not label or label[0] == "-" or label[-1] == "-" or not (_ALNUM | {"-"}).issuperset(label):
            raise _wrong(text, f"{host!r} is not a host name")


def _split_port(registry: str) -> tuple[str, str | None]:
    colon = registry.rfind(":")
    if colon < 0 or colon < registry.rfind("]"):
        return registry, None
    return registry[:colon], registry[colon + 1 :]
