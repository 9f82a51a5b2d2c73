"""Our programs against libseccomp's for the same profile: same answers, and not slower.

What is meant to differ is stated here: the ENOSYS for newer calls, which runc adds to libseccomp's program, and on i386
conditional rules for calls that socketcall(2) and ipc(2) carry (linux/seccomp/compiler.py says why).
"""

from __future__ import annotations

from itertools import product

import libseccomp_peer as peer
import pytest
from bpf_machine import AUDIT, Machine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from seccomp_reference import ABIS, IPC, NUMBERS, SOCKETCALL
from test_seccomp_compiler import ALL_NAMES, ENOSYS, arguments, calls

from coracle.linux import seccomp
from coracle.linux.syscall import MACHINE
from coracle.runtime.seccomp_profile import default_profile

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(peer.LIBRARY is None, reason="libseccomp.so.2 is not installed (Debian: libseccomp2)"),
    pytest.mark.skipif(MACHINE not in ABIS, reason=f"no system call tables for {MACHINE}"),
]

CARRIED = set(SOCKETCALL) | set(IPC)
CAPABILITIES = (
    frozenset(),
    frozenset({"CAP_SYS_ADMIN"}),
    frozenset({"CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_SYS_NICE"}),
)
# Values of arguments 0, 1 and 2 that the default profile tells apart, and their neighbours in the other word.
FIRST = [0, 1, 2, 8, 11, 12, 13, 16, 19, 38, 39, 40, 45, 46, 0x11, 0x20000, 0x20008, 0x7E020000, 0x10000000, 0x2000000]
FIRST += [0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 1 << 32, (1 << 32) + 2, (1 << 32) + 40, 5 << 32, 1 << 63]


def newest(profile: dict, abi: str) -> int:
    """The highest number that the profile names, beside the closed blocks."""
    end = {"x32": (1 << 30) + 512, "arm": 0xF0000}.get(abi, 1 << 32)
    named = {NUMBERS[abi][name] for rule in profile["syscalls"] for name in rule["names"] if name in NUMBERS[abi]}
    return max((number for number in named if number < end), default=1 << 32)


def unknown_to_peer(abi: str) -> set[int]:
    return {number for name, number in NUMBERS[abi].items() if not peer.knows(abi, name)}


@pytest.mark.parametrize("capabilities", CAPABILITIES, ids=lambda names: "+".join(sorted(names)) or "none")
def test_default_profile_call_by_call(capabilities):
    profile = default_profile(capabilities, MACHINE, (6, 1))
    ours, theirs = (Machine(program) for program in (seccomp.compile(profile).filter, peer.compile_profile(profile)))
    compared = 0
    for abi in ABIS[MACHINE]:
        base, skipped, last = min(NUMBERS[abi].values()), unknown_to_peer(abi), newest(profile, abi)
        looking = {NUMBERS[abi][name] for name in ("socket", "clone", "personality")}
        for number, first in product([*range(base, base + 600), (1 << 32) - 1], FIRST):
            if number in skipped or (first > 1 and number not in looking):
                continue
            expected = ENOSYS if last < number < (1 << 30) + 512 else theirs(abi, number, first)
            assert ours(abi, number, first) == expected, (abi, number, hex(first))
            compared += 1
    assert compared > 1000


@pytest.mark.parametrize("abi", [abi for abi in ABIS.get(MACHINE, ()) if abi != "x32"])
def test_default_profile_takes_no_more_instructions_than_theirs(abi):
    """The average over all calls that the library knows, arguments 0; exact, so it holds on any machine."""
    profile = default_profile({"CAP_SYS_CHROOT"}, MACHINE, (6, 1))
    program = seccomp.compile(profile).filter
    ours, theirs = Machine(program), Machine(peer.compile_profile(profile))
    numbers = [number for name, number in NUMBERS[abi].items() if peer.knows(abi, name)]
    count, peer_count = (
        sum(machine.run(AUDIT[abi], n)[1] for n in numbers) / len(numbers) for machine in (ours, theirs)
    )
    assert count <= peer_count, (count, peer_count)
    assert count <= 12
    assert len(ours.code) < len(theirs.code)


@st.composite
def unambiguous_profiles(draw):
    """One action besides the default: then the order in which libseccomp keeps conditional rules does not matter."""
    action, default = draw(st.permutations(["ALLOW", "ERRNO", "KILL", "LOG", "TRAP", "TRACE"]))[:2]
    names = st.lists(
        st.one_of(st.sampled_from(["read", "socket", "clone"]), st.sampled_from(ALL_NAMES)), min_size=1, max_size=6
    )
    rule = st.fixed_dictionaries(
        {"names": names, "action": st.just(f"SCMP_ACT_{action}"), "args": st.lists(arguments, max_size=3)}
    )
    architectures = [f"SCMP_ARCH_{abi.upper()}" for abi in ABIS[MACHINE]]
    return {
        "defaultAction": f"SCMP_ACT_{default}",
        "architectures": draw(st.lists(st.sampled_from(architectures))),
        "syscalls": draw(st.lists(rule, max_size=8)),
    }


def alternatives_share_a_word(profile: dict) -> bool:
    """libseccomp 2.5.4 forgets which word of an argument it has loaded, when it goes from one alternative of a call to
    the next and they compare by order: for ``a < 0 or a < 1 << 32`` it compares the low word with 1."""
    seen: dict[str, list[str]] = {}
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            seen.setdefault(name, []).extend(argument["op"] for argument in rule["args"])
    return any(len(found) > 1 and set(found) != {"SCMP_CMP_EQ"} for found in seen.values())


# The same examples each time: a new one may find another mistake of libseccomp's, which is not to be found here.
@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(profile=unambiguous_profiles())
def test_generated_profiles_call_by_call(profile):
    covered = {ABIS[MACHINE][0]} | {name.removeprefix("SCMP_ARCH_").lower() for name in profile["architectures"]}
    conditional = {name for rule in profile["syscalls"] if rule["args"] for name in rule["names"]}
    assume(not alternatives_share_a_word(profile))
    named = {name for rule in profile["syscalls"] for name in rule["names"]}
    # With a name that x86-64 does not have, libseccomp 2.5.4 can leave out the load of the number for x86-64 and x32.
    assume(not ("x32" in covered and any(name not in NUMBERS[abi] for name in named for abi in ("x86_64", "x32"))))
    assume(not ("x86" in covered and conditional & CARRIED))
    ours, theirs = (Machine(program) for program in (seccomp.compile(profile).filter, peer.compile_profile(profile)))
    passing = profile["defaultAction"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    for abi in ABIS[MACHINE]:
        skipped, last = unknown_to_peer(abi), newest(profile, abi)
        for number, values in calls(profile, abi):
            if number in skipped or (abi == "x86" and number in (102, 117) and number > last):
                continue
            own = abi if abi not in ("x86_64", "x32") else "x32" if number >= 1 << 30 else "x86_64"
            newer = own == abi and own in covered and not passing and last < number
            if newer and number < {"x32": (1 << 30) + 512, "arm": 0xF0000}.get(abi, (1 << 32) - 1):
                assert ours(abi, number, *values) == ENOSYS
            elif own == abi:
                assert ours(abi, number, *values) == theirs(abi, number, *values), (abi, number, values)
