"""The system call filter, run instruction by instruction for machines that are not at hand."""

from __future__ import annotations

import struct

import pytest

from cuvee.sandbox import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
COLUMN = {"x86_64": 0, "aarch64": 1}
# Calls that the interpreter itself lives on: read, write, mmap, futex, clock_nanosleep, exit_group.
DAILY = {"x86_64": (0, 1, 9, 202, 230, 231), "aarch64": (63, 64, 222, 98, 115, 94)}


def verdict(machine: str, number: int, arguments: tuple[int, ...] = (), architecture: int | None = None) -> int:
    """Return what the filter says to a system call, as the kernel would find it."""
    word = seccomp.AUDIT[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, word, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    loaded, place = 0, 0
    while True:
        operation, if_true, if_false, constant = code[place]
        if operation == seccomp.RETURN:
            return int(constant)
        if operation == seccomp.LOAD:
            (loaded,) = struct.unpack_from("<I", data, constant)
            place += 1
            continue
        holds = {
            seccomp.JUMP_EQUAL: loaded == constant,
            seccomp.JUMP_AT_LEAST: loaded >= constant,
            seccomp.JUMP_BITS: bool(loaded & constant),
        }[operation]
        place += 1 + (if_true if holds else if_false)


@pytest.mark.parametrize("machine", COLUMN)
def test_every_denied_call_is_refused(machine: str) -> None:
    for name, numbers in seccomp.DENIED.items():
        number = numbers[COLUMN[machine]]
        if number is not None:
            assert verdict(machine, number) == EPERM, name


@pytest.mark.parametrize("machine", COLUMN)
def test_the_interpreter_can_live(machine: str) -> None:
    for number in (*DAILY[machine], *seccomp.NEW_ALLOWED.values()):
        assert verdict(machine, number) == ALLOW, number


@pytest.mark.parametrize("machine", COLUMN)
def test_processes_can_be_cloned_but_not_into_namespaces(machine: str) -> None:
    number = seccomp.CLONE[COLUMN[machine]]
    assert verdict(machine, number, (17,)) == ALLOW
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert verdict(machine, number, (1 << bit | 17,)) == EPERM, bit


@pytest.mark.parametrize("machine", COLUMN)
def test_of_sockets_only_pairs_can_be_made(machine: str) -> None:
    number = seccomp.SOCKETPAIR[COLUMN[machine]]
    assert verdict(machine, number, (seccomp.AF_UNIX,)) == ALLOW
    assert verdict(machine, number, (2,)) == EPERM


@pytest.mark.parametrize("machine", COLUMN)
def test_nothing_can_be_typed_into_a_terminal(machine: str) -> None:
    number = seccomp.IOCTL[COLUMN[machine]]
    assert verdict(machine, number, (0, 0x5401)) == ALLOW
    assert verdict(machine, number, (0, 0x5412)) == EPERM


def test_calls_of_newer_kernels_do_not_exist() -> None:
    assert verdict("x86_64", 435) == ENOSYS
    assert verdict("aarch64", 999) == ENOSYS


def test_other_ways_of_calling_the_kernel_end_the_process() -> None:
    assert verdict("x86_64", 0, architecture=0x40000003) == KILL, "32-bit calls have other numbers"
    assert verdict("x86_64", 0x40000000) == ENOSYS, "as have x32 calls"


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="no system call filter for riscv64, only for x86_64 and aarch64"):
        seccomp.program("riscv64")
