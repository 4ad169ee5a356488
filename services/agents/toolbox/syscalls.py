"""Which system calls a sandbox may not make, as the seccomp filter that bubblewrap loads (`--seccomp`).

Refused is what would get around the bounds (memory that no limit counts: memfd, System V and POSIX queues, sockets of
the network's families), what makes namespaces or looks into other processes, and what only widens the kernel's surface.
Everything else passes: this is the second wall, namespaces and limits are the first.
Source: seccomp(2), linux/filter.h, linux/audit.h; numbers from asm/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_*, and which column of numbers is theirs."""

REFUSED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
NAMESPACES = 0x7E020080
"""CLONE_NEWUSER, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWNS, NEWCGROUP and NEWTIME."""
X32 = 0x40000000
"""Calls of another ABI on x86-64 begin here."""

# Of `struct seccomp_data`: number, architecture, low half of the first argument (both machines are little-endian).
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def seccomp_filter(machine: str = "") -> bytes:
    """The program for a machine (this one), as `struct sock_filter[]`. Raises `ValueError` for an unknown machine."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise ValueError(f"the sandbox knows the system calls of {' and '.join(ARCHITECTURES)}, not of {machine}")
    arch, column = ARCHITECTURES[machine]
    program = [
        _step(_LOAD, _ARCH),
        *_unless(_EQUAL, arch, _KILL),
        _step(_LOAD, _NUMBER),
        *(_where(_AT_LEAST, X32, _refuse(errno.ENOSYS)) if machine == "x86_64" else []),
        *(step for numbers in REFUSED.values() for step in _where(_EQUAL, numbers[column], _refuse(errno.EPERM))),
        # Its flags lie in memory, where no filter can look; without it libc takes `clone`.
        *_where(_EQUAL, CLONE3[column], _refuse(errno.ENOSYS)),
        _step(_EQUAL, CLONE[column], 0, 3),
        _step(_LOAD, _ARGUMENT),
        *_where(_ANY_OF, NAMESPACES, _refuse(errno.EPERM)),
        _step(_LOAD, _NUMBER),
        _step(_EQUAL, SOCKET[column], 0, 3),
        _step(_LOAD, _ARGUMENT),
        *_unless(_EQUAL, socket.AF_UNIX, _refuse(errno.EAFNOSUPPORT)),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _where(compare: int, value: int, answer: int) -> list[bytes]:
    return [_step(compare, value, 0, 1), _step(_RETURN, answer)]


def _unless(compare: int, value: int, answer: int) -> list[bytes]:
    return [_step(compare, value, 1, 0), _step(_RETURN, answer)]


def _refuse(number: int) -> int:
    return _ERRNO | number


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)
