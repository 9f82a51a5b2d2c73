"""What podman is asked to do with each runtime: one table, so that a new case is one line.

How cases are written: comparison.py.
"""

from __future__ import annotations

# name → podman command lines
CASES: dict[str, list[str]] = {
    # -- the program: result, streams, environment, identity
    "echo": ["{run} {image} echo hello"],
    "exit status": ["{run} {image} sh -c 'exit 7'"],
    "streams": ["{run} {image} sh -c 'echo out; echo err >&2'"],
    "killed by a signal": ["{run} {image} sh -c 'kill -KILL $$'"],
    "command not found": ["?{run} {image} /no/such/program"],
    "command not found in PATH": ["?{run} {image} nosuchprogram"],
    "not executable": ["?{run} {image} /etc/passwd"],
    "a directory as command": ["?{run} {image} /etc"],
    "environment": ["{run} --hostname h -e A=b -e EMPTY= {image} env"],
    "working directory": ["{run} -w /tmp {image} pwd"],
    "working directory is made": ["{run} -w /new/dir {image} pwd"],
    "user by number": ["{run} -u 1234:4321 {image} id"],
    "user by name": ["{run} -u user {image} id"],
    "additional groups": ["{run} -u 1000:1000 --group-add 44 --group-add 45 {image} id"],
    "unknown user": ["?{run} -u nosuchuser {image} id"],
    "umask": ["{run} --umask 0077 {image} sh -c umask"],
    "entrypoint": ["{run} --entrypoint /bin/echo {image} from entrypoint"],
    "timeout": ["{run} --timeout 1 {image} sleep 60"],
    "init": ["{run} --init {image} sh -c 'cat /proc/1/comm; (true &); exit 3'"],
    # -- namespaces
    "hostname": ["{run} --hostname box {image} hostname"],
    "no network": ["{run} {image} ls /sys/class/net"],
    "loopback is up": ["{run} {image} cat /sys/class/net/lo/flags"],
    "host network": ["run --rm --network host {image} ls /sys/class/net"],
    "host pid": ["{run} --pid host {image} sh -c 'test $$ != 1 && cat /proc/1/comm'"],
    "host ipc": ["{run} --ipc host {image} cat /proc/sys/kernel/msgmax"],
    "host uts": ["{run} --uts host {image} hostname"],
    "private cgroup namespace": ["{run} --cgroupns private {image} cat /proc/self/cgroup"],
    "host cgroup namespace": ["{run} --cgroupns host {image} cat /proc/self/cgroup"],
    "uid map": ["{run} --uidmap 0:100000:5000 --gidmap 0:200000:5000 {image} cat /proc/self/uid_map"],
    "uid map with user": ["{run} --uidmap 0:100000:5000 -u 1000:1000 {image} sh -c 'id; touch /tmp/x'"],
    "automatic user namespace": ["{run} --userns auto:size=3000 {image} sh -c 'cat /proc/self/gid_map; id -u'"],
    "user namespace and volume": ["{run} --uidmap 0:100000:5000 -v {dir}:/v {image} stat -c '%u %g' /v"],
    "shared namespaces": [
        "run -d --name {c} --network none --ipc shareable --hostname first {image} sleep 100",
        "run --rm --network container:{c} --ipc container:{c} --pid container:{c} {image} hostname",
        "-rm -f -t 0 {c}",
    ],
    # -- file system
    "mount table": ["{run} {image} awk '$5 !~ \"^/proc/\" {print $5, $6}' /proc/self/mountinfo"],
    "masks below /proc": [
        "{run} {image} awk '$5 ~ \"^/proc/\" {print $5}' /proc/self/mountinfo",
        "{run} {image} awk '$5 ~ \"^/proc/(bus|fs|irq|sys)$\" && $6 ~ \"^ro\" {print $5}' /proc/self/mountinfo",
    ],
    "devices": ["{run} {image} sh -c 'cd /dev && stat -c \"%n %F %a %t %T %N\" *'"],
    "null, zero and random work": ["{run} {image} sh -c 'head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c'"],
    "masked paths": ["{run} {image} sh -c 'wc -c </proc/kcore; ls /proc/scsi /sys/firmware 2>/dev/null | wc -l'"],
    "unmasked": ["{run} --security-opt unmask=ALL {image} sh -c 'awk \"{print \\$5}\" /proc/self/mountinfo'"],
    "more masks": ["{run} --security-opt mask=/proc/version {image} sh -c 'wc -c </proc/version'"],
    "read-only paths": ["{run} {image} sh -c 'echo h >/proc/sysrq-trigger'"],
    "read-only root": ["{run} --read-only {image} sh -c 'touch /x; touch /tmp/x && echo tmp'"],
    "read-only, no tmpfs": ["{run} --read-only --read-only-tmpfs=false {image} sh -c 'touch /tmp/x'"],
    "volume": ["{run} -v {dir}:/v {image} sh -c 'echo data >/v/file; cat /v/file'"],
    "read-only volume": ["{run} -v {dir}:/v:ro {image} touch /v/file"],
    "volume options": ["{run} -v {dir}:/v:nosuid,nodev,noexec {image} grep ' /v ' /proc/self/mounts"],
    "volume propagation": ["{run} -v {dir}:/v:rslave {image} sh -c 'grep -c \" /v .*master\" /proc/self/mountinfo'"],
    "file volume": ["{run} -v /etc/debian_version:/etc/version:ro {image} cat /etc/version"],
    "volume onto a new path": ["{run} -v {dir}:/a/b/c {image} ls -d /a/b/c"],
    "nested volumes": ["{run} -v {dir}:/v -v /etc:/v/etc:ro {image} cat /v/etc/debian_version"],
    "named volume": ["{run} -v {c}-vol:/v {image} sh -c 'echo x >/v/f; cat /v/f'", "volume rm {c}-vol"],
    "overlay volume": ["{run} -v {dir}:/v:O {image} sh -c 'touch /v/new && ls /v'"],
    "tmpfs": ["{run} --tmpfs /t:size=1m,mode=700 {image} sh -c 'grep \" /t \" /proc/self/mounts'"],
    "tmpfs copies up": ["{run} --mount type=tmpfs,tmpfs-size=1m,target=/etc {image} cat /etc/passwd"],
    "tmpfs has a limit": ["{run} --tmpfs /t:size=1m {image} dd if=/dev/zero of=/t/x bs=1024 count=2048"],
    "shm size": ["{run} --shm-size 1m {image} grep /dev/shm /proc/self/mounts"],
    "device": ["{run} --device /dev/null:/dev/hole:rw {image} sh -c 'stat -c %F-%t-%T /dev/hole; echo x >/dev/hole'"],
    "device not allowed": ["{run} --cap-add MKNOD {image} sh -c 'mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg'"],
    "device rule": ["{run} --device-cgroup-rule 'c 1:7 rwm' {image} sh -c 'mknod /tmp/f c 1 7; echo x >/tmp/f'"],
    "root directory": ["run --rm --network none --rootfs {dir}/rootfs /bin/echo from rootfs"],
    "time zone": ["{run} --tz=Asia/Tokyo {image} date +%z"],
    "preserved descriptors": ["{run} --preserve-fds 0 {image} sh -c 'ls /proc/self/fd | wc -l'"],
    # -- limits
    "memory": ["{run} --cgroupns host -m 64m {image} cat /sys/fs/cgroup/memory/memory.limit_in_bytes"],
    "memory, swap, reservation": [
        "{run} -m 64m --memory-swap 96m --memory-reservation 32m {image} sh -c "
        "'cd /sys/fs/cgroup/memory && cat memory.limit_in_bytes memory.soft_limit_in_bytes'"
    ],
    "out of memory": [
        "?run --name {c} --network none -m 16m {image} sh -c 'tail /dev/zero'",
        "inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' {c}",
        "?rm {c}",
    ],
    "pids": ["{run} --pids-limit 7 {image} sh -c 'cat /sys/fs/cgroup/pids/pids.max'"],
    "pids is enforced": ["{run} --pids-limit 3 {image} sh -c 'sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait' "],
    "cpus": ["{run} --cpus 0.5 {image} sh -c 'cd /sys/fs/cgroup/cpu && cat cpu.cfs_quota_us cpu.cfs_period_us'"],
    "cpu shares": ["{run} --cpu-shares 300 {image} cat /sys/fs/cgroup/cpu/cpu.shares"],
    "cpu set": ["{run} --cpuset-cpus 0 {image} sh -c 'nproc; grep Cpus_allowed_list /proc/self/status'"],
    "ulimit": [
        "{run} --ulimit nofile=100:200 --ulimit nproc=1024 --ulimit core=0 {image} "
        "sh -c 'ulimit -n; ulimit -Hn; ulimit -c'"
    ],
    "oom score": ["{run} --oom-score-adj 500 {image} cat /proc/self/oom_score_adj"],
    "block device limit": [
        "{run} --device-read-bps {disk}:1mb {image} cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device"
    ],
    "sysctl": ["{run} --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=65536 {image} "
               "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"],
    "no cgroup": ["{run} --cgroups disabled {image} echo works"],
    # -- rights
    "capabilities": ["{run} {image} grep Cap /proc/self/status"],
    "capabilities of a user": ["{run} -u 1000 --cap-add NET_ADMIN {image} grep Cap /proc/self/status"],
    "no capabilities": ["{run} --cap-drop all {image} grep Cap /proc/self/status"],
    "one capability": ["{run} --cap-drop all --cap-add CHOWN {image} grep Cap /proc/self/status"],
    "no new privileges": ["{run} --security-opt no-new-privileges {image} grep NoNewPrivs /proc/self/status"],
    "seccomp": ["{run} {image} sh -c 'grep Seccomp: /proc/self/status; unshare -m true'"],
    "no seccomp": ["{run} --security-opt seccomp=unconfined {image} grep Seccomp: /proc/self/status"],
    "privileged": ["{run} --privileged {image} sh -c 'grep -E \"Cap|Seccomp:\" /proc/self/status; test -w /proc/sys'"],
    "systemd off": ["{run} --systemd=false {image} sh -c 'awk \"{print \\$5}\" /proc/self/mountinfo'"],
    "systemd always": ["{run} --systemd=always {image} sh -c 'awk \"{print \\$5}\" /proc/self/mountinfo'"],
    # -- life of a container
    "detached": [
        "?run -d --name {c} --network none {image} sleep 100",
        "exec {c} cat /proc/1/cmdline",
        "inspect --format '{{.State.Status}} {{.State.Running}}' {c}",
        "stop -t 0 {c}",
        "inspect --format '{{.State.Status}} {{.State.ExitCode}}' {c}",
        "rm {c}",
    ],
    "create, init, start": [
        "?create --name {c} --network none {image} echo started",
        "init {c}",
        "inspect --format '{{.State.Status}}' {c}",
        "start -a {c}",
        "inspect --format '{{.State.Status}}' {c}",
        "rm {c}",
    ],
    "remove before start": ["?create --name {c} --network none {image} true", "init {c}", "rm -f -t 0 {c}"],
    "exec": [
        "?run -d --name {c} --network none {image} sleep 100",
        "exec -e A=b -w /tmp -u 1000:1000 {c} sh -c 'echo $A; pwd; id'",
        "exec {c} sh -c 'exit 9'",
        "?exec {c} /no/such/program",
        "?exec {c} /etc/passwd",
        "exec {c} sh -c 'kill -TERM $$'",
        "exec {c} grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status",
        "exec --privileged {c} grep CapEff /proc/self/status",
        "exec {c} cat /proc/self/cgroup",
        "?exec -d {c} touch /tmp/detached",
        "-rm -f -t 0 {c}",
    ],
    "exec into a user namespace": [
        "?run -d --name {c} --network none --uidmap 0:100000:5000 {image} sleep 100",
        "exec {c} sh -c 'id; cat /proc/self/uid_map'",
        "exec -u user {c} id",
        "-rm -f -t 0 {c}",
    ],
    "stop signal": [
        "?run -d --name {c} --network none --stop-signal USR1 {image} "
        "sh -c 'trap \"echo got; exit 5\" USR1; echo ready; while :; do sleep 0.1; done'",
        "?exec {c} sleep 0.5",
        "stop {c}",
        "logs {c}",
        "inspect --format '{{.State.ExitCode}}' {c}",
        "rm {c}",
    ],
    "kill": [
        "?run -d --name {c} --network none {image} "
        "sh -c 'trap \"echo hup\" HUP; trap \"exit 4\" TERM; while :; do sleep 0.1; done'",
        "?exec {c} sleep 0.5",
        "kill -s HUP {c}",
        "?exec {c} sleep 0.5",
        "kill -s 15 {c}",
        "wait {c}",
        "logs {c}",
        "?kill {c}",
        "rm {c}",
    ],
    "pause": [
        "?run -d --name {c} --network none {image} sleep 100",
        "pause {c}",
        "inspect --format '{{.State.Status}}' {c}",
        "?exec {c} true",
        "unpause {c}",
        "exec {c} echo awake",
        "?unpause {c}",
        "rm -f -t 0 {c}",
    ],
    "restart": [
        "?run -d --name {c} --network none {image} sh -c 'echo up; sleep 100'",
        "?restart -t 0 {c}",
        "inspect --format '{{.State.Status}}' {c}",
        "-rm -f -t 0 {c}",
    ],
    "restart policy": [
        "?run --name {c} --network none --restart on-failure:2 {image} sh -c 'echo try; exit 1'",
        "?wait {c}",
        "-rm -f -t 0 {c}",
    ],
    "top": [
        "?run -d --name {c} --network none {image} sleep 100",
        "top {c} user pid comm args",
        "top {c} capeff seccomp",
        "-rm -f -t 0 {c}",
    ],
    "stats": [
        "?run -d --name {c} --network none -m 64m --pids-limit 30 {image} sleep 100",
        "stats --no-stream --format '{{.Name}} {{.PIDs}}' {c}",
        "-rm -f -t 0 {c}",
    ],
    "update": [
        "?run -d --name {c} --network none -m 64m {image} sleep 100",
        "?update -m 96m --cpu-shares 512 --pids-limit 55 {c}",
        "exec {c} sh -c 'cd /sys/fs/cgroup && cat memory/memory.limit_in_bytes cpu/cpu.shares pids/pids.max'",
        "-rm -f -t 0 {c}",
    ],
    "health check": [
        "?run -d --name {c} --network none --health-cmd 'test -e /healthy' --health-interval disable {image} sleep 100",
        "healthcheck run {c}",
        "exec {c} touch /healthy",
        "healthcheck run {c}",
        "-rm -f -t 0 {c}",
    ],
    "copy": [
        "?run -d --name {c} --network none {image} sleep 100",
        "cp /etc/debian_version {c}:/tmp/version",
        "exec {c} cat /tmp/version",
        "cp {c}:/tmp/version {dir}/copied",
        "-rm -f -t 0 {c}",
    ],
    "diff": [
        "run --name {c} --network none {image} sh -c 'touch /new; rm /etc/group'",
        "diff {c}",
        "rm {c}",
    ],
    "logs": ["run --name {c} --network none {image} sh -c 'echo one; echo two'", "logs --tail 1 {c}", "rm {c}"],
    "hundred lines": ["{run} {image} seq 100"],
    "a megabyte of output": ["{run} {image} sh -c 'yes | head -c 1000000 | md5sum; yes | head -c 300000'"],
    # -- pods
    "pod": [
        "?pod create --name {c}-pod --network none --hostname podhost",
        "run --rm --pod {c}-pod {image} hostname",
        "?run -d --pod {c}-pod --name {c} {image} sleep 100",
        "exec {c} hostname",
        "pod ps --filter name={c}-pod --format '{{.Status}} {{.NumberOfContainers}}'",
        "?pod pause {c}-pod",
        "?pod unpause {c}-pod",
        "?pod stop -t 0 {c}-pod",
        "pod ps --filter name={c}-pod --format '{{.Status}}'",
        "-pod rm -f {c}-pod",
    ],
    "pod that shares pids": [
        "?pod create --name {c}-pod --network none --share pid,ipc,uts,net",
        "run --rm --pod {c}-pod {image} cat /proc/1/comm",
        "-pod rm -f -t 0 {c}-pod",
    ],
}  # fmt: skip

# Where crun and runc differ and either is right: name → why.
EITHER = {
    "devices": "crun links /dev/core to /proc/kcore, runc does not",
    "systemd always": "runc mounts the systemd cgroup hierarchy a second time",
}

# What one of the reference runtimes cannot do.
BEYOND = {"no cgroup": ("runc",)}
