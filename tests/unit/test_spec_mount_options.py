"""Mount option words become attributes, propagation and data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.errors import SpecError
from coracle.linux import mount
from coracle.runtime.mount_options import KNOWN, MountOptions, mount_options

ATIME = mount.ATTR_ATIME

# every word of runtime-spec 1.3, config.md, "Linux mount options"
SPECIFIED = """async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime
relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate
rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid
symfollow sync tmpcopyup unbindable idmap ridmap rnodev"""


@pytest.mark.parametrize(
    ("words", "set_", "clear"),
    [
        ("", 0, 0),
        ("defaults", 0, 0),
        ("ro", mount.ATTR_RDONLY, 0),
        ("ro rw", 0, mount.ATTR_RDONLY),
        ("rw ro", mount.ATTR_RDONLY, 0),
        ("nosuid noexec nodev", mount.ATTR_NOSUID | mount.ATTR_NOEXEC | mount.ATTR_NODEV, 0),
        ("nosuid suid exec dev", 0, mount.ATTR_NOSUID | mount.ATTR_NOEXEC | mount.ATTR_NODEV),
        ("nosymfollow", mount.ATTR_NOSYMFOLLOW, 0),
        ("symfollow", 0, mount.ATTR_NOSYMFOLLOW),
        ("noatime", mount.ATTR_NOATIME, ATIME),
        ("noatime relatime", 0, ATIME),
        ("noatime strictatime", mount.ATTR_STRICTATIME, ATIME),
        ("strictatime atime", mount.ATTR_STRICTATIME, ATIME),  # atime only takes noatime back
        ("noatime nostrictatime", mount.ATTR_NOATIME, ATIME),
        ("noatime atime", 0, ATIME),
        ("norelatime", 0, 0),
        ("noatime nodiratime", mount.ATTR_NOATIME | mount.ATTR_NODIRATIME, ATIME),
        ("nodiratime diratime", 0, mount.ATTR_NODIRATIME),
    ],
)
def test_attributes(words, set_, clear):
    options = mount_options(words.split())
    assert (options.attr_set, options.attr_clear) == (set_, clear)
    assert (options.rec_set, options.rec_clear) == (0, 0)
    recursive = mount_options([f"r{word}" for word in words.split() if word != "defaults"])
    assert (recursive.rec_set, recursive.rec_clear) == (set_, clear)
    assert (recursive.attr_set, recursive.attr_clear) == (0, 0)


@given(st.lists(st.sampled_from(KNOWN)))
def test_masks_never_contradict_themselves(words):
    options = mount_options(words)
    for set_, clear in ((options.attr_set, options.attr_clear), (options.rec_set, options.rec_clear)):
        assert not set_ & clear & ~ATIME  # mount_setattr(2) would clear and set again
        assert set_ & ATIME in (0, mount.ATTR_NOATIME, mount.ATTR_STRICTATIME)
        assert clear & ATIME in (0, ATIME)  # EINVAL for a part of the field
        assert not set_ & ATIME or clear & ATIME


def test_every_word_of_the_specification_is_known():
    assert set(SPECIFIED.split()) <= set(KNOWN)
    for word in KNOWN:
        options = mount_options([word])
        assert options.data in ([], [(word, None)]), word
        assert bool(options.data) == (word in ("sync", "dirsync", "lazytime", "mand")), word


def test_propagation_keeps_its_order():
    options = mount_options(["rslave", "ro", "shared"])
    assert options.propagation == [mount.MS_SLAVE | mount.MS_REC, mount.MS_SHARED]


@pytest.mark.parametrize(
    ("word", "switches"),
    [
        ("bind", {"bind"}),
        ("rbind", {"bind", "rbind"}),
        ("remount", {"remount"}),
        ("tmpcopyup", {"tmpcopyup"}),
        ("idmap", {"idmap"}),
        ("ridmap", {"idmap", "ridmap"}),
        ("src-nofollow", {"nofollow"}),
        ("copy-symlink", {"copy_symlink"}),
        ("dest-nofollow", {"destination_nofollow"}),
    ],
)
def test_switches(word, switches):
    options = mount_options([word])
    assert {name for name in MountOptions.__slots__ if getattr(options, name) is True} == switches


def test_what_is_not_known_belongs_to_the_file_system():
    options = mount_options(["mode=755", "size=65536k", "newinstance", "context=", "nosuid"])
    assert options.data == [("mode", "755"), ("size", "65536k"), ("newinstance", None), ("context", "")]


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("size=64k,mode=1777", [("size", "64k"), ("mode", "1777")]),
        ('context="u:r:t:s0:c1,c2",size=1', [("context", '"u:r:t:s0:c1,c2"'), ("size", "1")]),
        ("lowerdir=/a\\,b:/c,ro", [("lowerdir", "/a\\,b:/c"), ("ro", None)]),
        ("a,,b,", [("a", None), ("b", None)]),
        ("opt=a=b", [("opt", "a=b")]),
        ("", []),
        ("x-systemd.automount", []),
        ("auto", []),
    ],
)
def test_data(word, data):
    assert mount_options([word]).data == data


def test_superblock_flags_are_switched_by_their_opposites():
    assert mount_options(["sync", "lazytime", "async"]).data == [("lazytime", None)]
    assert mount_options(["mand", "mand"]).data == [("mand", None)]


def test_idmap_of_crun():
    options = mount_options(["idmap=uids=0-1000-10#10-2000-5;gids=@0-0-10"])
    assert options.idmap and not options.ridmap
    assert options.uid_mappings == [
        {"containerID": 0, "hostID": 1000, "size": 10, "relative": 0},
        {"containerID": 10, "hostID": 2000, "size": 5, "relative": 0},
    ]
    assert options.gid_mappings == [{"containerID": 0, "hostID": 0, "size": 10, "relative": 1}]


@pytest.mark.parametrize(
    "word",
    ["idmap=", "idmap=uids", "idmap=uids=", "idmap=uids=1-2", "idmap=uids=a-b-c", "idmap=x=1-2-3", "idmap=uids=1-2--3"],
)
def test_wrong_idmap_is_named(word):
    with pytest.raises(SpecError) as caught:
        mount_options(["ro", word], "mounts[3].options")
    assert caught.value.where == "mounts[3].options[1]"


def test_words_for_a_shell():
    options = mount_options(["nosuid", "ro", "mode=755", "sync", "rslave", "noatime"])
    assert options.words() == ["ro", "nosuid", "noatime", "mode=755", "sync"]
    assert options.attribute_words() == ["ro", "nosuid", "noatime"]
    assert mount_options(["rw", "dev", "relatime"]).attribute_words() == ["relatime", "rw", "dev"]
    assert mount_options(["rro", "rdev"]).attribute_words() == ["ro=recursive", "dev=recursive"]


def test_equality_is_by_value():
    assert mount_options(["ro", "size=1"]) == mount_options(["size=1", "ro", "defaults"])
    assert mount_options(["ro"]) != mount_options(["rw"])
    assert len({mount_options(["ro"]), mount_options(["ro"])}) == 1
    assert repr(mount_options(["ro"])) == "MountOptions(attr_set=1)"
