"""Steps that prepare the program's standard files, directory and path, inside the container's root."""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISFIFO, S_ISREG, S_ISSOCK

from coracle.errors import CannotExecuteError, CommandNotFoundError, KernelError
from coracle.linux import mount, terminal
from coracle.linux.shell import quote
from coracle.linux.syscall import syscall
from coracle.runtime.executable import diagnose
from coracle.step import ENTER, Step, World

CLOSE_RANGE_CLOEXEC = 4
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT = 1 << 20


class StandardFiles(Step):
    """Standard input, output and error: the terminal, or what the caller gave, owned by the program's user."""

    __slots__ = ("terminal", "uid")
    place = ENTER

    def __init__(self, terminal: bool, uid: int, cause: str) -> None:
        super().__init__(cause)
        self.terminal = terminal
        self.uid = uid

    def do(self, world: World) -> None:
        if self.terminal:
            slave = world.fds.pop("terminal")
            terminal.make_controlling(slave)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.close(slave)
        else:
            os.setsid()
            for fd, given in enumerate(world.values.get("standard files", ())):
                os.dup2(given, fd)
        for fd in (0, 1, 2):
            self._settle(fd)

    def _settle(self, fd: int) -> None:
        """A pipe or terminal must be openable again through /proc/self/fd; the host's null device must not."""
        info = os.fstat(fd)
        if S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3):
            try:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                return
            os.dup2(null, fd)
            os.close(null)
        elif info.st_uid != self.uid and (self.terminal or S_ISFIFO(info.st_mode) or S_ISSOCK(info.st_mode)):
            try:
                os.fchown(fd, self.uid, -1)
            except OSError:  # an unmapped owner, or a file of somebody else
                pass

    def prose(self) -> str:
        what = "the terminal" if self.terminal else "what the caller gave"
        return f"start a new session, with {what} as standard input, output and error"

    def shell(self) -> list[str]:
        return ["# the terminal is the one that this script was started on"] if self.terminal else []

    def shell_words(self) -> dict[str, list[str]]:
        return {} if self.terminal else {"exec": ["setsid"]}

    def fields(self) -> dict[str, object]:
        return {"terminal": self.terminal, "uid": self.uid}


class EnterDirectory(Step):
    """Change to the working directory, and make sure that it is inside the container (CVE-2024-21626)."""

    __slots__ = ("path",)
    place = ENTER

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        try:  # no link of /proc leads there: /proc/self/fd/7 is a descriptor of the engine's
            fd = mount.openat2(mount.AT_FDCWD, self.path, mount.O_PATH | os.O_DIRECTORY, mount.RESOLVE_NO_MAGICLINKS)
        except PermissionError:  # such as a home directory on NFS: once more as the user
            world.values["chdir as user"] = True
            return
        try:
            os.fchdir(fd)
        except PermissionError:
            world.values["chdir as user"] = True
            return
        finally:
            os.close(fd)
        here = os.getcwd()
        if not here.startswith("/") or here.startswith("(unreachable)"):
            raise KernelError(1, "change directory", self.path, "it leads out of the container")

    def prose(self) -> str:
        return f"change directory to {self.path}"

    def shell(self) -> list[str]:
        return []  # part of the last line

    def hint(self, errno: int) -> str:
        return {
            20: "it is not a directory",
            2: "there is no such directory",
            40: "it leads through a link of /proc, where the engine's own descriptors are",
        }.get(errno, "")


class FindProgram(Step):
    """Look the program up, before it is too late to say something useful about it."""

    __slots__ = ("environment", "program", "uid")
    place = ENTER

    def __init__(self, program: str, environment: list[str], uid: int, cause: str) -> None:
        super().__init__(cause)
        self.program = program
        self.environment = environment
        self.uid = uid

    def do(self, world: World) -> None:
        if not any(entry.startswith("HOME=") for entry in self.environment):
            world.values["environment"] = [*self.environment, f"HOME={home_of(self.uid)}"]
        world.values["program"] = self._candidates()
        if note := diagnose(world.values["program"][0]):
            world.values["note"](note)

    def _candidates(self) -> list[str]:
        """Paths to try, in order (execvp(3)): as root here, the kernel decides again as the user."""
        if "/" in self.program:
            _check(self.program)
            return [self.program]
        path = next((e[5:] for e in reversed(self.environment) if e.startswith("PATH=")), _DEFAULT_PATH)
        names = [f"{directory or '.'}/{self.program}" for directory in path.split(":")]
        found = [name for name in names if _is_program(name)]
        if found:
            return found
        if existing := [name for name in names if os.path.exists(name)]:
            _check(existing[0])
        raise CommandNotFoundError(f'exec: "{self.program}": executable file not found in $PATH', f"PATH is {path}")

    def prose(self) -> str:
        return f"find the program {self.program}"

    def shell(self) -> list[str]:
        if any(entry.startswith("HOME=") for entry in self.environment):
            return []  # the shell that becomes the program looks it up as well
        find = quote(f"$3 == {self.uid} {{ print $6; exit }}")
        return [f'HOME=$(awk -F: {find} "$ROOT/etc/passwd" || :)', "HOME=${HOME:-/}"]


def _is_program(path: str) -> bool:
    try:
        info = os.stat(path)
    except OSError:
        return False
    return S_ISREG(info.st_mode) and bool(info.st_mode & 0o111)


def _check(path: str) -> None:
    """:raises CommandNotFoundError, CannotExecuteError: saying what is wrong with ``path``."""
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CommandNotFoundError(f'exec: "{path}": no such file or directory') from None
    except OSError as error:
        raise CannotExecuteError(f'exec: "{path}": {os.strerror(error.errno or 0).lower()}') from None
    if not S_ISREG(info.st_mode):
        kind = "is a directory" if os.path.isdir(path) else "is not a regular file"
        raise CannotExecuteError(f'exec: "{path}": {kind}: permission denied')
    if not info.st_mode & 0o111:
        raise CannotExecuteError(f'exec: "{path}": permission denied', f"chmod +x {quote(path)}")


def home_of(uid: int) -> str:
    """Home directory of ``uid`` by the container's own /etc/passwd, or "/"; no NSS (CVE-2019-14271)."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        if not S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.read(fd, _PASSWD_LIMIT)
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted and fields[5].startswith(b"/"):
            return os.fsdecode(fields[5])
    return "/"


class CloseDescriptors(Step):
    """Mark every descriptor but the standard ones and ``preserve`` more as close-on-exec (CVE-2024-21626)."""

    __slots__ = ("preserve",)
    place = ENTER

    def __init__(self, preserve: int, cause: str) -> None:
        super().__init__(cause)
        self.preserve = preserve

    def do(self, world: World) -> None:
        first = 3 + self.preserve
        try:
            syscall("close_range", first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
        except OSError:  # the flag is new in Linux 5.11
            for name in os.listdir("/proc/self/fd"):
                if int(name) >= first:
                    try:
                        os.set_inheritable(int(name), False)
                    except OSError:
                        pass

    def prose(self) -> str:
        kept = f" except the first {self.preserve} after them" if self.preserve else ""
        return f"let no descriptor beyond standard error reach the program{kept}"

    def shell(self) -> list[str]:
        return []
