"""Options of docker and podman that ``run`` refuses, each with its reason: nothing is dropped silently."""

from __future__ import annotations

from coracle.engine.options.parser import REFUSED, Option

_NETWORK = "is not supported yet: only --network none|host"
_HEALTH = "is not supported yet: health checks"
_REGISTRY = "is not supported yet: images are not pulled from registries"
_WINDOWS = "is for Windows containers only"
_POD = "is not supported yet: pods"
_LATER = "is not supported yet"

_REASONS = {
    _NETWORK: "publish:p publish-all:P ip ip6 link link-local-ip mac-address network-alias net-alias rootless-net",
    _HEALTH: "health-cmd health-interval health-retries health-start-interval health-start-period health-timeout"
    " health-on-failure health-log-destination health-max-log-count health-max-log-size health-startup-cmd"
    " health-startup-interval health-startup-retries health-startup-success health-startup-timeout no-healthcheck",
    _REGISTRY: "authfile creds cert-dir tls-verify decryption-key retry retry-delay",
    _WINDOWS: "cpu-count cpu-percent io-maxbandwidth io-maxiops isolation",
    _POD: "pod pod-id-file infra init-ctr",
    _LATER: "chrootdirs conmon-pidfile env-merge group-entry hostuser hosts-file init-path passwd-entry pidfile"
    " preserve-fd preserve-fds rdt-class replace requires rmi sdnotify seccomp-policy secret shm-size-systemd"
    " storage-opt use-api-socket volume-driver",
    "is not supported yet: run attaches stdout and stderr, -i adds stdin, -d attaches nothing": "attach:a",
    "is not supported yet: use --platform OS/ARCH[/VARIANT]": "arch os variant",
    "is not supported yet: GPUs": "gpus",
    "is not supported yet: named volumes": "volumes-from",
    "is not supported yet: ranges by name; use --uidmap and --gidmap": "subuidname subgidname",
    "is not supported: the runtime is part of coracle": "runtime",
    "is not supported: the kernel ignores this limit since Linux 5.16": "kernel-memory",
    "is not supported: containers always have a cgroup of their own": "cgroups",
}

UNSUPPORTED = tuple(
    Option(name.partition(":")[0], name.partition(":")[2], REFUSED, str, None, "", reason)
    for reason, names in _REASONS.items()
    for name in names.split()
)
