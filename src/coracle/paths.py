"""Where everything lives.  No other module knows these names (docs/disk.md).

    <root>/   /var/lib/coracle, or ~/.local/share/coracle        survives a reboot
      version                       storage format
      images/                       an OCI image layout: oci-layout, index.json, blobs/sha256/
      layers/<hex of diff_id>/diff  unpacked layers, the lower directories of overlay mounts; by chain id
                                    what is right only above certain others (image/unpack.py)
      ready/<hex of image id>.json  what `run` needs of an image; made from images/, can be made again
      ingest/                       unfinished work, safe to delete when nothing runs
      images.lock  store.lock       who edits index.json; who adds content (shared) or collects it (exclusive)
      containers/<id>/              an OCI bundle: config.json rootfs/ and container.json upper/ work/ log
      names/<name>                  link to ../containers/<id>, made in one step: a name has one owner
    <run>/    /run/coracle, or $XDG_RUNTIME_DIR/coracle          gone after a reboot
      containers/<id>/              state.json, origin.json, lock, attach socket, exec.fifo
      seccomp/                      compiled filters

Root and each user have separate stores; they never mix.
"""

from __future__ import annotations

import os

ROOTS_STORE, ROOTS_RUN = "/var/lib/coracle", "/run/coracle"


def _user_directory(variable: str, fallback: str) -> str:
    value = os.environ.get(variable, "")
    return value if value.startswith("/") else fallback


def default_root() -> str:
    """The storage root of the calling user; ``$CORACLE_ROOT`` overrides it."""
    if override := os.environ.get("CORACLE_ROOT"):
        return os.path.abspath(override)
    return ROOTS_STORE if os.geteuid() == 0 else _users_store()


def _users_store() -> str:
    data = _user_directory("XDG_DATA_HOME", os.path.join(os.environ.get("HOME", "/"), ".local/share"))
    return os.path.join(data, "coracle")


def default_run() -> str:
    """The run-time state directory of the calling user; ``$CORACLE_RUN`` overrides it."""
    if override := os.environ.get("CORACLE_RUN"):
        return os.path.abspath(override)
    return ROOTS_RUN if os.geteuid() == 0 else _users_run()


def _users_run() -> str:
    return os.path.join(_user_directory("XDG_RUNTIME_DIR", f"/tmp/coracle-run-{os.getuid()}"), "coracle")


def usual_places() -> list[str]:
    """Where root and this user keep containers unless told otherwise, to be hidden from a clone of the machine."""
    return [ROOTS_STORE, ROOTS_RUN, _users_store(), _users_run()]


class Paths:
    """All paths below one storage root and one run directory."""

    __slots__ = ("root", "run")

    def __init__(self, root: str = "", run: str = "") -> None:
        self.root = os.path.abspath(root) if root else default_root()
        self.run = os.path.abspath(run) if run else default_run()

    def version(self) -> str:
        return f"{self.root}/version"

    def images(self) -> str:
        """The OCI image layout that is the content store."""
        return f"{self.root}/images"

    def layers(self) -> str:
        return f"{self.root}/layers"

    def layer(self, diff_id: str) -> str:
        """Directory of the unpacked layer ``sha256:<hex>``; its tree is in ``diff`` below it."""
        return f"{self.root}/layers/{diff_id.partition(':')[2]}"

    def ingest(self) -> str:
        """Unfinished downloads and unpacked trees, on the same file system as what they become."""
        return f"{self.root}/ingest"

    def ready(self) -> str:
        """Records of images that are unpacked and ready to run."""
        return f"{self.root}/ready"

    def ready_image(self, image_id: str) -> str:
        """The run-ready record of the image ``sha256:<hex>``, the digest of its config."""
        return f"{self.root}/ready/{image_id.partition(':')[2]}.json"

    def images_lock(self) -> str:
        """Lock for editing the image index."""
        return f"{self.root}/images.lock"

    def store_lock(self) -> str:
        """Shared lock of everyone who adds or relies on content; the collector takes it exclusively."""
        return f"{self.root}/store.lock"

    def containers(self) -> str:
        return f"{self.root}/containers"

    def container(self, identifier: str) -> str:
        """The bundle directory of a container."""
        return f"{self.root}/containers/{identifier}"

    def pin(self, identifier: str) -> str:
        """The record of which image and layers a container stands on; while it exists, they are not collected."""
        return f"{self.root}/containers/{identifier}/image.json"

    def names(self) -> str:
        return f"{self.root}/names"

    def name(self, name: str) -> str:
        return f"{self.root}/names/{name}"

    def running(self) -> str:
        return f"{self.run}/containers"

    def state(self, identifier: str) -> str:
        """The run-time directory of a container: state.json, lock, sockets."""
        return f"{self.run}/containers/{identifier}"

    def seccomp_cache(self) -> str:
        return f"{self.run}/seccomp"
