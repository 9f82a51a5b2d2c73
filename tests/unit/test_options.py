"""The option table of run: grammar, values, and one clear line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.engine.options import (
    FLAG,
    LIST,
    MAP,
    REFUSED,
    RUN,
    SPLIT,
    VALUE,
    Option,
    RunOptions,
    Table,
    image_and_command,
    parse,
    parse_run,
)
from coracle.engine.options.help import help_text
from coracle.engine.options.mounts import Mount
from coracle.engine.options.parser import boolean
from coracle.errors import CoracleError, UsageError
from coracle.linux.signals import signal_number


def run(*argv: str) -> RunOptions:
    return parse_run([*argv, "image"])[0]


def complaint(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_run([*argv, "image"])
    return str(caught.value)


# -- grammar --------------------------------------------------------------------------------------


def test_the_example_of_the_documentation() -> None:
    words = (
        "--rm -m 64m --cpus 0.5 --pids-limit 20 -v /src:/src:ro -e A=b -w /src -u 1000:1000 --hostname h debian:12 sh"
    )
    options, rest = parse_run([*words.split(), "-c", "exit 3"])
    assert options.remove and options.memory == 64 << 20 and options.cpus == 500_000_000 and options.pids_limit == 20
    assert (options.volume[0].source, options.volume[0].target, options.volume[0].readonly) == ("/src", "/src", "rro")
    assert (options.env, options.workdir, options.user, options.hostname) == (["A=b"], "/src", "1000:1000", "h")
    assert image_and_command(options, rest) == ("debian:12", ["sh", "-c", "exit 3"])


@pytest.mark.parametrize(
    ("argv", "field", "expected"),
    [
        (["-it"], "tty", True),
        (["-it"], "interactive", True),
        (["-eA=b"], "env", ["A=b"]),
        (["-e=A=b"], "env", ["A=b"]),
        (["-e", "A=b", "--env=C=d"], "env", ["A=b", "C=d"]),
        (["-itm64m"], "memory", 64 << 20),
        (["-im", "64m"], "memory", 64 << 20),
        (["--memory=64m"], "memory", 64 << 20),
        (["--memory", "64m"], "memory", 64 << 20),
        (["-m", "1g", "-m", "2g"], "memory", 2 << 30),
        (["--rm=false"], "remove", False),
        (["--rm=T"], "remove", True),
        (["--rm", "--rm=0"], "remove", False),
        (["-t=false"], "tty", False),
        (["--sig-proxy=false"], "sig_proxy", False),
        ([], "sig_proxy", True),
        (["--memory-swap", "-1"], "memory_swap", -1),
        (["--net", "host"], "network", "host"),
        (["--dns-opt", "ndots:2"], "dns_option", ["ndots:2"]),
        (["--cap-add", "net_admin,CAP_SYS_TIME", "--cap-add=all"], "cap_add", ["CAP_NET_ADMIN", "CAP_SYS_TIME", "ALL"]),
        (["--annotation", "a=1", "--annotation", "b=2=3"], "annotation", {"a": "1", "b": "2=3"}),
        (["--hostname="], "hostname", ""),
        (["-h", "web"], "hostname", "web"),
        (["-c", "512"], "cpu_shares", 512),
    ],
)
def test_grammar(argv: list[str], field: str, expected: object) -> None:
    assert getattr(run(*argv), field) == expected


def test_options_stop_at_the_image() -> None:
    options, rest = parse_run(["--rm", "image", "--rm=false", "-x", "--", "y"])
    assert options.remove and rest == ["image", "--rm=false", "-x", "--", "y"]


def test_two_dashes_end_the_options() -> None:
    assert parse_run(["-i", "--", "--odd", "-t"])[1] == ["--odd", "-t"]


def test_a_single_dash_is_an_argument() -> None:
    assert parse_run(["-", "x"])[1] == ["-", "x"]


def test_options_may_follow_arguments_where_a_verb_wants_it() -> None:
    table = Table([("", [Option("all", "a", FLAG, boolean, False, "", "All of them")])])
    options, rest = parse(table, ["x", "-a", "y", "--", "-b"], interspersed=True)
    assert options.all and rest == ["x", "y", "-b"]


def test_defaults_are_never_shared() -> None:
    run("-e", "A=b", "--annotation", "a=b")
    assert run().env == [] and run().annotation == {}


def test_given_keeps_the_words_of_the_user() -> None:
    given_words = run("-m", "64m", "--rm", "-e=A=b", "--env", "C", "--tty=true").given
    assert given_words == {
        "memory": ["-m 64m"],
        "remove": ["--rm"],
        "env": ["-e A=b", "--env C"],
        "tty": ["--tty true"],
    }


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_give_options_or_one_line(argv: list[str]) -> None:
    try:
        parse_run(argv)
    except CoracleError as error:
        assert "\n" not in str(error).replace(repr(argv), "") or any("\n" in word for word in argv)


@given(st.sampled_from(sorted(RUN.long)), st.text(max_size=20))
def test_any_value_is_taken_or_refused_in_one_line(name: str, text: str) -> None:
    option = RUN.long[name]
    try:
        parse_run([f"--{name}={text}", "image"])
    except UsageError as error:
        assert f"--{name}" in str(error) or name in ("mount", "volume", "tmpfs", "device", "cap-add"), str(error)
        assert option.kind != REFUSED or "is not supported" in str(error) or "Windows" in str(error)
    else:
        assert option.kind != REFUSED


# -- the table ------------------------------------------------------------------------------------


def test_the_type_names_every_field_of_the_table() -> None:
    fields = {option.field for option in RUN.long.values() if option.kind != REFUSED}
    assert fields == set(RunOptions.__annotations__) - {"given"}


def test_every_default_has_the_type_of_its_kind() -> None:
    for option in RUN.long.values():
        if option.kind in (LIST, SPLIT, MAP):
            assert option.default == ({} if option.kind == MAP else [])
        if option.kind == FLAG:
            assert option.default in (True, False)


def test_short_names_are_unique() -> None:
    shorts = [option.short for option in RUN.long.values() if option.short]
    assert len(shorts) == len(set(shorts)) and all(len(short) == 1 for short in shorts)


def test_every_docker_option_is_known() -> None:
    docker = """add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns
    cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus
    cpuset-cpus cpuset-mems detach detach-keys device device-cgroup-rule device-read-bps
    device-read-iops device-write-bps device-write-iops disable-content-trust dns dns-option dns-search
    domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries
    health-start-interval health-start-period health-timeout help hostname init interactive
    io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link link-local-ip
    log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name
    network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform
    privileged publish publish-all pull quiet read-only restart rm runtime security-opt shm-size
    sig-proxy stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit use-api-socket user userns
    uts volume volume-driver volumes-from workdir"""
    assert set(docker.split()) - set(RUN.long) == set()


def test_every_podman_option_is_known() -> None:
    podman = """arch authfile cgroup-conf cgroups chrootdirs conmon-pidfile env-host env-merge gidmap
    health-on-failure hostuser http-proxy image-volume init-path label-file no-hosts os passwd
    passwd-entry personality pidfile pod pod-id-file preserve-fds read-only-tmpfs replace requires rmi
    rootfs sdnotify seccomp-policy secret subgidname subuidname systemd timeout tls-verify tz uidmap
    umask unsetenv unsetenv-all variant"""
    assert set(podman.split()) - set(RUN.long) == set()


def test_import_stays_small() -> None:
    """The start path pays for what this package imports: none of these modules may be among it."""
    code = "import coracle.engine.options, coracle.engine.container_spec, sys; print(*sys.modules)"
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(source)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"typing", "re", "json", "enum", "dataclasses", "pathlib", "subprocess", "signal", "socket", "argparse"}
    heavy |= {
        "logging",
        "contextlib",
        "functools",
        "ctypes",
        "tempfile",
        "shutil",
        "collections",
        "textwrap",
        "difflib",
    }
    assert heavy & set(done.stdout.split()) == set()


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--memroy 1g", "unknown option --memroy (did you mean --memory?)"),
        ("--cpu 1", "unknown option --cpu (did you mean --cpus?)"),
        ("--qwxyz", "unknown option --qwxyz"),
        ("-itx", "unknown option -x in -itx"),
        ("-x", "unknown option -x"),
        ("--publish 80:80", "--publish is not supported yet: only --network none|host"),
        ("-p 80:80", "-p, --publish is not supported yet: only --network none|host"),
        ("--network bridge", "--network bridge is not supported yet: only --network none|host"),
        ("--restart always", "--restart always is not supported yet: only --restart no"),
        ("--log-driver syslog", "--log-driver syslog is not supported yet: only json-file and none"),
        ("--log-opt tag=x", "--log-opt tag is not supported yet: only max-size and max-file"),
        ("--gpus all", "--gpus is not supported yet: GPUs"),
        ("--cpu-count 1", "--cpu-count is for Windows containers only"),
        ("--pod x", "--pod is not supported yet: pods"),
        ("-v data:/data", "named volume 'data' is not supported yet: only directories and files of this host (for the"
         " directory in the working directory write ./data)"),
        ("--mount type=volume,dst=/x", "--mount type=volume is not supported yet: only type=bind and type=tmpfs"),
        ("--device vendor.com/class=all",
         "CDI device 'vendor.com/class=all' is not supported yet: only device nodes and directories of this host"),
        ("--rm=maybe", "invalid value 'maybe' for --rm: expected true or false"),
        ("-m 64x", "invalid value '64x' for -m: expected a size such as 64m, 1.5g or a number of bytes"),
        ("--cap-add FOO",
         "invalid value 'FOO' for --cap-add: expected a capability of capabilities(7) such as NET_ADMIN, or ALL"),
        ("--ulimit nofile=3:1", "invalid value 'nofile=3:1' for --ulimit: expected a soft limit that is not above the"
         " hard limit"),
        ("--pid nonsense", "--pid nonsense is not supported: only private, host, container:NAME, ns:PATH"),
        ("-w relative", "invalid value 'relative' for -w: expected an absolute path"),
        ("--name -x", "invalid value '-x' for --name: expected letters, digits, '_', '.' and '-', beginning with a"
         " letter or digit"),
        ("--userns keep-id", "--userns keep-id is not supported yet: only host, or private with --uidmap and --gidmap"),
        ("--uts host --hostname x", "--hostname contradicts --uts host"),
        ("--cpus 1 --cpu-quota 5000", "--cpus contradicts --cpu-period and --cpu-quota"),
        ("--network host --sysctl net.ipv4.ip_forward=1", "--sysctl net.ipv4.ip_forward contradicts --network host: it"
         " would change more than this container"),
        ("--sysctl kernel.panic=1", "invalid value 'kernel.panic=1' for --sysctl: expected a sysctl of a namespace:"
         " net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*, ..."),
        ("--disable-content-trust=false", "content trust is not supported: only --disable-content-trust=true"),
    ],
)  # fmt: skip
def test_mistakes(argv: str, line: str) -> None:
    assert complaint(*argv.split()) == line


def test_missing_value() -> None:
    with pytest.raises(UsageError, match=r"^option --memory needs a value \(--memory BYTES: Memory limit\)$"):
        parse_run(["--memory"])
    with pytest.raises(UsageError, match=r"^option -m needs a value"):
        parse_run(["-im"])


def test_missing_image() -> None:
    options, rest = parse_run(["--rm"])
    with pytest.raises(UsageError, match="an image is needed"):
        image_and_command(options, rest)


def test_a_root_directory_needs_no_image(tmp_path: Path) -> None:
    options, rest = parse_run(["--rootfs", str(tmp_path), "sh", "-c", "x"])
    assert image_and_command(options, rest) == ("", ["sh", "-c", "x"])


def test_help_wins_over_contradictions() -> None:
    assert parse_run(["--uts", "host", "--hostname", "x", "--help"])[0].help


# -- values ---------------------------------------------------------------------------------------

GOOD = [
    ("--memory", "512", 512),
    ("--memory", "64k", 64 << 10),
    ("--memory", "64kb", 64 << 10),
    ("--memory", "64KiB", 64 << 10),
    ("--memory", "1.5g", 3 << 29),
    ("--memory", "2 G", 2 << 30),
    ("--memory", "1t", 1 << 40),
    ("--memory", "100b", 100),
    ("--cpus", "1.25", 1_250_000_000),
    ("--cpus", ".5", 500_000_000),
    ("--cpus", "2", 2_000_000_000),
    ("--cpus", "0", 0),
    ("--cpuset-cpus", "0-3,6", "0-3,6"),
    ("--shm-size", "1g", 1 << 30),
    ("--stop-signal", "term", "SIGTERM"),
    ("--stop-signal", "9", "SIGKILL"),
    ("--stop-signal", "SIGRTMIN+3", "37"),
    ("--stop-signal", "RTMAX-1", "63"),
    ("--stop-timeout", "-1", -1),
    ("--detach-keys", "ctrl-p,ctrl-q", b"\x10\x11"),
    ("--detach-keys", "ctrl-a,d", b"\x01d"),
    ("--detach-keys", "ctrl-@,ctrl-[,ctrl-_", b"\x00\x1b\x1f"),
    ("--detach-keys", "", b""),
    ("--ulimit", "nofile=1024:2048", [("nofile", 1024, 2048)]),
    ("--ulimit", "core=0", [("core", 0, 0)]),
    ("--ulimit", "memlock=-1:-1", [("memlock", 2**64 - 1, 2**64 - 1)]),
    ("--ulimit", "RLIMIT_NPROC=5:unlimited", [("nproc", 5, 2**64 - 1)]),
    ("--time-offset", "monotonic=3600", {"monotonic": 3600 * 10**9}),
    ("--time-offset", "boottime=-1.5", {"boottime": -1_500_000_000}),
    ("--uidmap", "0:100000:65536", [(0, 100000, 65536)]),
    ("--gidmap", "5:1000", [(5, 1000, 1)]),
    ("--device", "/dev/null", [("/dev/null", "/dev/null", "rwm")]),
    ("--device", "/dev/null:r", [("/dev/null", "/dev/null", "r")]),
    ("--device", "/dev/null:/dev/nil:rw", [("/dev/null", "/dev/nil", "rw")]),
    ("--device-cgroup-rule", "c 42:* rwm", [("c", 42, -1, "rwm")]),
    ("--device-read-bps", "/dev/sda:1mb", [("/dev/sda", 1 << 20)]),
    ("--device-write-iops", "/dev/sda:1000", [("/dev/sda", 1000)]),
    ("--blkio-weight-device", "/dev/sda:500", [("/dev/sda", 500)]),
    ("--add-host", "db:10.0.0.1", [("db", "10.0.0.1")]),
    ("--add-host", "db=::1", [("db", "::1")]),
    ("--add-host", "db:::1", [("db", "::1")]),
    ("--add-host", "db:[::1]", [("db", "::1")]),
    ("--add-host", "h:host-gateway", [("h", "host-gateway")]),
    ("--dns", "9.9.9.9,::1", ["9.9.9.9", "::1"]),
    ("--expose", "80", ["80/tcp"]),
    ("--expose", "8000-8010/UDP", ["8000-8010/udp"]),
    ("--umask", "077", 0o77),
    ("--name", "/web_1.a-b", "web_1.a-b"),
    ("--workdir", "//a/./b/../c/", "/a/c"),
    ("--cgroup-parent", "a/b", "/a/b"),
    ("--sysctl", "net/ipv4/ip_forward=1", {"net/ipv4/ip_forward": "1"}),
    ("--log-opt", "max-size=10m", {"max-size": 10 << 20}),
    ("--log-opt", "max-file=3", {"max-file": 3}),
    ("--pid", "container:web", "container:web"),
    ("--pid", "ns:/proc/1/ns/pid", "ns:/proc/1/ns/pid"),
    ("--oom-score-adj", "-1000", -1000),
    ("--security-opt", "no-new-privileges:true", [("no-new-privileges", True)]),
    ("--security-opt", "seccomp=unconfined", [("seccomp", "unconfined")]),
    ("--security-opt", "seccomp=/p.json", [("seccomp", "/p.json")]),
    ("--security-opt", "mask=/a:/b", [("mask", ["/a", "/b"])]),
    ("--security-opt", "unmask=all", [("unmask", ["ALL"])]),
    ("--security-opt", "label:type:t", [("label", ["type:t"])]),
    ("--security-opt", "label=level:s0:c1,c2", [("label", ["level:s0:c1,c2"])]),
    ("--security-opt", "proc-opts=hidepid=2,subset=pid", [("proc-opts", ["hidepid=2", "subset=pid"])]),
]


@pytest.mark.parametrize(("option", "text", "expected"), GOOD)
def test_good_values(option: str, text: str, expected: object) -> None:
    assert getattr(run(option, text), RUN.long[option[2:]].field) == expected


BAD = """
--memory=|--memory=-1|--memory=1.2.3|--memory=m|--memory=0x10|--memory=1e3|--memory=64mm|--memory=bb
--memory=99999999999p|--memory=٣|--memory=+5|--memory=1_000|--memory-swap=-2|--cpus=-1|--cpus=0.001|--cpus=1/2|--cpus=1e1
--cpus=nan|--cpus=1.0000000001|--cpu-shares=-1|--cpuset-cpus=3-1|--cpuset-cpus=a|--cpuset-cpus=|--cpuset-cpus=0,|--pids-limit=-2
--pids-limit=1.5|--pids-limit=|--blkio-weight=1001|--memory-swappiness=101|--oom-score-adj=1001|--stop-signal=0
--stop-signal=65|--stop-signal=SIGFOO|--stop-signal=RTMIN+99|--stop-timeout=x|--detach-keys=ctrl-|--detach-keys=ab
--detach-keys=ctrl-1|--detach-keys=,|--ulimit=nofile|--ulimit=foo=1|--ulimit=nofile=a|--ulimit=nofile=1:|--time-offset=realtime=1
--time-offset=monotonic|--time-offset=monotonic=x|--uidmap=0:0:0|--uidmap=a:b:c|--uidmap=0:4294967295:1
--uidmap=0:0:4294967296|--device=null|--device=/dev/null:/x:/y|--device=/dev/null:x|--device=/dev/null:/x:rr
--device-cgroup-rule=c 1:3|--device-cgroup-rule=x 1:3 rwm|--device-cgroup-rule=c 1:3 rwx|--device-read-bps=/dev/sda
--device-read-bps=sda:1|--device-read-iops=/dev/sda:1m|--blkio-weight-device=/dev/sda:5|--add-host=db|--add-host=db:x
--add-host=:1.2.3.4|--add-host=a b:1.2.3.4|--dns=x|--dns=1.2.3|--dns-search=|--dns-search=a b|--expose=0|--expose=70000
--expose=90-80|--expose=80/x|--umask=8|--umask=01000|--name=|--name=.a|--name=a/b|--hostname=a b|--hostname=-a
--workdir=a|--cgroup-parent=../x|--cgroup-parent=/|--sysctl=net.x|--sysctl=net/../kernel/panic=1|--sysctl=kernel.hostname
--sysctl=net..x=1|--pid=container:|--pid=ns:x|--uts=container:x|--ipc=|--pull=sometimes|--security-opt=foo=bar
--security-opt=|--security-opt=seccomp=|--security-opt=mask=a|--security-opt=proc-opts=x|--security-opt=label=type
--security-opt=label=disable:x|--security-opt=no-new-privileges=maybe|--security-opt=systempaths=x|--env=|--env==x|--label==x
--personality=BSD|--annotation==1|--log-opt=max-file=0|--log-opt=max-size=x|--group-add=|--network=|--cap-drop=
""".strip().replace("\n", "|").split("|")  # fmt: skip


@pytest.mark.parametrize("word", BAD)
def test_bad_values_are_named(word: str) -> None:
    line = complaint(word)
    assert word.partition("=")[0] in line
    assert "expected" in line or "not supported" in line


def test_nul_bytes_never_get_through() -> None:
    for name, option in RUN.long.items():
        if option.kind in (VALUE, LIST, MAP, SPLIT):
            text = {"tmpfs": "/a\0b", "volume": "/a\0:/b", "mount": "type=bind,src=/a\0,dst=/b"}.get(name, "a\0=b")
            with pytest.raises(UsageError):
                parse_run([f"--{name}={text}", "image"])


def test_signal_numbers() -> None:
    import signal

    for number in range(1, 32):
        name = run("--stop-signal", str(number)).stop_signal
        assert signal_number(name) == number
        if number != 16:  # SIGSTKFLT is unknown to older Pythons
            assert getattr(signal, name) == number
    assert signal_number("37") == 37


# -- mounts ---------------------------------------------------------------------------------------


def mount_of(*argv: str) -> Mount:
    options = run(*argv)
    (found,) = [*options.volume, *options.mount, *options.tmpfs]
    return found


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-v", "/a:/b"], {"source": "/a", "target": "/b", "create": True, "propagation": "rprivate", "readonly": ""}),
        (["-v", "/a//x/:/b/"], {"source": "/a/x", "target": "/b"}),
        (["-v", "/a:/b:ro,Z,rshared"], {"readonly": "rro", "relabel": "private", "propagation": "rshared"}),
        (["-v", "/a:/b:rw,z,nocopy,cached"], {"readonly": "", "relabel": "shared"}),
        (["-v", "/a:/b:bind,noexec,nosuid"], {"recursive": False, "options": ["noexec", "nosuid"]}),
        (["--mount", "type=bind,src=/a,dst=/b"], {"source": "/a", "target": "/b", "create": False, "readonly": ""}),
        (["--mount", "type=bind,source=/a,destination=/b,ro=true"], {"readonly": "rro"}),
        (["--mount", "type=bind,source=/a,target=/b,readonly=false"], {"readonly": ""}),
        (["--mount", "type=bind,src=/a,dst=/b,rw"], {"readonly": ""}),
        (["--mount", "type=bind,src=/a,dst=/b,ro,bind-recursive=writable"], {"readonly": "ro", "recursive": True}),
        (["--mount", "type=bind,src=/a,dst=/b,ro,bind-recursive=disabled"], {"readonly": "ro", "recursive": False}),
        (["--mount", "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly"], {"readonly": "rro"}),
        (["--mount", "type=bind,src=/a,dst=/b,bind-nonrecursive"], {"recursive": False}),
        (["--mount", "type=bind,src=/a,dst=/b,bind-propagation=rslave"], {"propagation": "rslave"}),
        (["--mount", "type=bind,src=/a,dst=/b,relabel=shared,bind-create-src"], {"relabel": "shared", "create": True}),
        (["--mount", 'type=bind,"src=/a,b",dst=/c'], {"source": "/a,b", "target": "/c"}),
        (["--tmpfs", "/t"], {"kind": "tmpfs", "options": ["noexec", "nosuid", "nodev", "rprivate"]}),
        (["--tmpfs", "/t:size=1m,exec,mode=700"],
         {"options": ["nosuid", "nodev", "rprivate", "size=1m", "exec", "mode=700"]}),
        (["--tmpfs", "/t:exec,noexec"], {"options": ["nosuid", "nodev", "rprivate", "noexec"]}),
        (["--tmpfs", "/t:shared"], {"options": ["noexec", "nosuid", "nodev", "shared"]}),
        (["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,ro"],
         {"options": ["noexec", "nosuid", "nodev", "rprivate", "ro", "size=1048576", "mode=1770"]}),
    ],
)  # fmt: skip
def test_mounts(argv: list[str], expected: dict[str, object]) -> None:
    mount = mount_of(*argv)
    assert {name: getattr(mount, name) for name in expected} == expected


def test_relative_sources_start_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mount_of("-v", "./a:/b").source == str(tmp_path / "a")
    assert mount_of("-v", ".:/b").source == str(tmp_path)
    assert mount_of("-v", "../a:/b").source == os.path.dirname(tmp_path) + "/a"
    assert mount_of("--mount", "type=bind,src=./a,dst=/b").source == str(tmp_path / "a")


@pytest.mark.parametrize(
    "argv",
    [
        "-v /a", "-v a:/b", "-v a/b:/c", "-v /a:b", "-v /a:/", "-v /a:/b:", "-v /a:/b:xx", "-v /a:/b:ro,rw",
        "-v /a:/b:z,Z", "-v /a:/b:rshared,rslave", "-v /a:/b:ro:rw", "-v :/b", "-v /a::ro", "-v /a:/b:U",
        "-v /a:/b:O", "-v /a:..", "--tmpfs t", "--tmpfs /", "--tmpfs /t:size=x", "--tmpfs /t:mode=9",
        "--tmpfs /t:foo", "--tmpfs /t:size", "--mount type=bind,src=/a", "--mount type=bind,dst=/a",
        "--mount src=/a,dst=/b", "--mount type=bind,src=a,dst=/b", "--mount type=bind,src=/a,dst=/b,tmpfs-size=1",
        "--mount type=tmpfs,dst=/a,src=/b", "--mount type=tmpfs,dst=/", "--mount type=tmpfs,dst=/a,tmpfs-mode=9",
        "--mount type=bind,src=/a,dst=/b,foo=1", "--mount type=bind,src=/a,dst=/b,ro=x",
        "--mount type=bind,src=/a,dst=/b,bind-propagation=x",
        "--mount type=bind,src=/a,dst=/b,bind-recursive=readonly", "--mount type=npipe,src=/a,dst=/b",
        "--mount type=bind,src,dst=/b", "--mount type=bind,src=/a,dst=/b,U=true",
    ],
)  # fmt: skip
def test_bad_mounts(argv: str) -> None:
    assert complaint(*argv.split())


@given(st.text(alphabet='ab/:,=".\0 \n', max_size=24), st.sampled_from(["--mount", "-v", "--tmpfs"]))
def test_mounts_never_crash(text: str, option: str) -> None:
    try:
        mount = mount_of(option, text)
    except UsageError:
        return
    assert mount.target.startswith("/") and mount.target != "/" and "\0" not in mount.target
    assert mount.kind == "tmpfs" or os.path.isabs(mount.source)


# -- help -----------------------------------------------------------------------------------------


def test_help_shows_every_supported_option_in_aligned_columns() -> None:
    page = help_text(RUN, "coracle run [OPTIONS] IMAGE [COMMAND] [ARG...]", "Create and run a container", 100)
    rows = [line for line in page.splitlines() if line.startswith("  -") or line.startswith("      --")]
    supported = [option for option in RUN.long.values() if option.kind != REFUSED]
    assert [row.split("--")[1].split()[0] for row in rows] == [option.name for option in supported]
    assert max(map(len, page.splitlines())) <= 100
    columns = {len(row) - len(row[6:].split("  ", 1)[1].lstrip()) for row in rows if "  " in row[6:]}
    assert len(columns) == 1
    assert "  -m, --memory bytes" in page and "Isolation:" in page and "(default true)" in page
    assert "--publish" not in page
