"""Runs a program under a filter that refuses system calls, as containers and systemd units have them.

    refuse.py ERRNO CALL[,CALL...] PROGRAM [WORD...]

`tmpfile` stands for `openat` and `open` of a file without a name.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# By name: the numbers on x86_64 and on aarch64.
CALLS = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "statx": (332, 291),
    "faccessat2": (439, 439),
    "copy_file_range": (326, 285),
    "renameat2": (316, 276),
    "linkat": (265, 37),
    "fchmod": (91, 52),
}
LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
TMPFILE = 0o20000000  # the flag's own bit
TMPFILES = [("openat", 32), ("open", 24)]  # and where the argument is that has it
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2


def number(call):
    return CALLS[call][platform.machine() == "aarch64"]


def program(refused, calls):
    lines = []
    for call in calls:
        for known, flags in TMPFILES if call == "tmpfile" else [(call, None)]:
            if number(known) is None:
                continue
            lines.append((LOAD, 0, 0, 0))
            if flags:
                lines += [(EQUAL, 0, 3, number(known)), (LOAD, 0, 0, flags), (SET, 0, 1, TMPFILE)]
            else:
                lines.append((EQUAL, 0, 1, number(known)))
            lines.append((RETURN, 0, 0, REFUSE | refused))
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines), len(lines)


def main():
    refused, calls, *words = sys.argv[1:]
    text, count = program(getattr(errno, refused), calls.split(","))
    room = ctypes.create_string_buffer(text, len(text))
    filter_of = struct.pack("HxxxxxxP", count, ctypes.addressof(room))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, MODE_FILTER, ctypes.c_char_p(filter_of), 0, 0
    ):
        sys.exit(os.strerror(ctypes.get_errno()))
    os.execv(words[0], words)


main()
