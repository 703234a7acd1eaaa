"""The system call filter: a small assembler for classic BPF and the list of what a program may not ask of the kernel.

A filter is an array of instructions of eight bytes (u16 code, u8 jump if true, u8 jump if false, u32 constant) that
reads a `struct seccomp_data` (u32 number, u32 architecture, u64 instruction pointer, six u64 arguments) and returns an
action (Linux, Documentation/userspace-api/seccomp_filter.rst). A refused call returns an errno and the program lives
on: it sees `PermissionError`, or for calls of newer kernels "not implemented", upon which the C library falls back.

Refused: what looks into or steers other processes, mounts and namespaces, keys, kernel modules and tracing, io_uring,
every socket but an AF_UNIX pair, memory that no limit of the process counts (memfd, System V memory, message queues),
and every call that is newer than this list.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Architecture words of the filter (linux/audit.h) for the machines that are supported."""

# Number on x86_64 and on aarch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h);
# None where the machine has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
    "process_mrelease": (448, 448),
}

FIRST_NEW = 424
"""From here on numbers are the same on all machines, and a call is refused unless it is in `NEW_ALLOWED`."""
NEW_ALLOWED = {"close_range": 436, "openat2": 437, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449}

CLONE = (56, 220)
SOCKETPAIR = (53, 199)
IOCTL = (16, 29)
NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into the terminal of the caller
AF_UNIX = 1
X32_BIT = 0x40000000

# Instructions: class | size | mode (linux/bpf_common.h).
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000

Instruction = tuple[int, int, int, int]


def program(machine: str) -> bytes:
    """Return the filter for a machine.

    Args:
        machine: as `platform.machine()` says it.

    Raises:
        ValueError: no list of system calls for this machine.
    """
    if machine not in AUDIT:
        raise ValueError(f"no system call filter for {machine}, only for {' and '.join(AUDIT)}")
    column = list(AUDIT).index(machine)
    denied = sorted(number for pair in DENIED.values() if (number := pair[column]) is not None)
    code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32_BIT),
        _refuse(errno.ENOSYS),
        *_flags(CLONE[column], 0, JUMP_BITS, [NAMESPACE_FLAGS]),
        *_flags(IOCTL[column], 1, JUMP_EQUAL, TERMINAL_INPUT),
        *_only(SOCKETPAIR[column], 0, AF_UNIX),
    ]
    for number in denied:
        code += [(JUMP_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    for number in sorted(NEW_ALLOWED.values()):
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    code += [(JUMP_AT_LEAST, 0, 1, FIRST_NEW), _refuse(errno.ENOSYS), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _refuse(number: int) -> Instruction:
    return (RETURN, 0, 0, ERRNO | number)


def _flags(call: int, argument: int, test: int, values: Iterable[int]) -> list[Instruction]:
    """Refuse a call when a test of an argument's lower half holds for one of the values."""
    checks = [part for value in values for part in ((test, 0, 1, value), _refuse(errno.EPERM))]
    body = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *checks, (LOAD, 0, 0, NUMBER)]
    return [(JUMP_EQUAL, 0, len(body), call), *body]


def _only(call: int, argument: int, value: int) -> list[Instruction]:
    """Refuse a call unless an argument's lower half has a value."""
    body = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), (JUMP_EQUAL, 1, 0, value), _refuse(errno.EPERM)]
    body.append((LOAD, 0, 0, NUMBER))
    return [(JUMP_EQUAL, 0, len(body), call), *body]
