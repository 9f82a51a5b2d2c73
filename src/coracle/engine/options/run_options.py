"""The type of what ``run`` and ``create`` were asked for; the table in ``run`` fills it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.engine.options.mounts import Mount


class RunOptions:
    """What ``run`` or ``create`` was asked for; the defaults are docker's, 0 or "" where nothing was said.

    Sizes are bytes, times seconds, cpus billionths of a CPU.
    """

    given: dict[str, list[str]]
    help: bool
    # the container
    name: str
    cidfile: str
    platform: str
    pull: str
    quiet: bool
    disable_content_trust: bool
    rootfs: str
    label: list[tuple[str, str]]
    label_file: list[str]
    annotation: dict[str, str]
    # how it runs
    detach: bool
    interactive: bool
    tty: bool
    remove: bool
    detach_keys: bytes
    sig_proxy: bool
    init: bool
    restart: str
    stop_signal: str
    stop_timeout: int | None
    timeout: int
    log_driver: str
    log_opt: dict[str, int]
    systemd: bool
    # the process
    entrypoint: str | None
    env: list[str]
    env_file: list[str]
    env_host: bool
    http_proxy: bool
    unsetenv: list[str]
    unsetenv_all: bool
    workdir: str
    user: str
    group_add: list[str]
    umask: int
    tz: str
    personality: str
    passwd: bool
    # names
    hostname: str
    domainname: str
    add_host: list[tuple[str, str]]
    no_hosts: bool
    no_hostname: bool
    dns: list[str]
    dns_search: list[str]
    dns_option: list[str]
    network: str
    expose: list[str]
    # file systems
    volume: list[Mount]
    mount: list[Mount]
    tmpfs: list[Mount]
    read_only: bool
    read_only_tmpfs: bool
    shm_size: int
    image_volume: str
    # limits
    memory: int
    memory_swap: int
    memory_reservation: int
    memory_swappiness: int
    oom_kill_disable: bool
    oom_score_adj: int | None
    cpus: int
    cpu_shares: int
    cpu_period: int
    cpu_quota: int
    cpu_rt_period: int
    cpu_rt_runtime: int
    cpuset_cpus: str
    cpuset_mems: str
    pids_limit: int
    ulimit: list[tuple[str, int, int]]
    blkio_weight: int
    blkio_weight_device: list[tuple[str, int]]
    device_read_bps: list[tuple[str, int]]
    device_write_bps: list[tuple[str, int]]
    device_read_iops: list[tuple[str, int]]
    device_write_iops: list[tuple[str, int]]
    cgroup_parent: str
    cgroup_conf: dict[str, str]
    # security and isolation
    privileged: bool
    cap_add: list[str]
    cap_drop: list[str]
    security_opt: list[tuple[str, Any]]
    device: list[tuple[str, str, str]]
    device_cgroup_rule: list[tuple[str, int, int, str]]
    sysctl: dict[str, str]
    pid: str
    ipc: str
    uts: str
    cgroupns: str
    userns: str
    uidmap: list[tuple[int, int, int]]
    gidmap: list[tuple[int, int, int]]
    time_offset: dict[str, int]
