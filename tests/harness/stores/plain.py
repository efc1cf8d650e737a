#!/usr/bin/env python3
"""A filesystem as plain as NFS: no unnamed files, no extended attributes, no holes.

    plain.py DIRECTORY links|no-links|unnamed|on-a-device

Mounts itself on DIRECTORY through FUSE (needs root), keeps its files in memory, and says `ready`.
With `no-links` it has no hard links either; a rename that must not replace works in both. With
`unnamed` it has unnamed files after all. With `on-a-device` the kernel takes it for one on a block
device, and so waits when the last holder of a file lets go of it (`release`), whatever signal comes.

Obeys lines on its standard input, each answered by one line:
    plan NTH ERRNO   from now on counts the calls that change something, and fails the NTH with
                     ERRNO (0: none); answers with the calls counted until now, by name
    hang CALL        from now on calls of this name (`flush`, `read`, `release` too) get no answer
    fail CALL ERRNO  from now on calls of this name fail with ERRNO (0: no more)
    resend CALL      from now on calls of this name are done twice, and the second is answered, as NFS does
                     when the first answer was lost
    skip CALL        from now on calls of this name (`fsync`, `fsyncdir`) are answered and do nothing
    lose             all that no call made last is gone, as when the power fails: bytes since the last
                     `fsync` of their file, names since the last `fsyncdir`
    held             answers with the number of calls that wait for one
    free             answers them all, and no longer hangs
The end of its input unmounts it: so does the death of the test that started it.
"""

import atexit
import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import tempfile
import time

(LOOKUP, FORGET, GETATTR, SETATTR) = (1, 2, 3, 4)
(UNLINK, LINK, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC) = (10, 13, 14, 15, 16, 17, 18, 20)
(FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR) = (25, 26, 27, 28, 29, 30)
(ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2) = (34, 35, 36, 38, 42, 45)
TMPFILE = 51
CHANGES = {
    SETATTR: "setattr",
    UNLINK: "unlink",
    LINK: "link",
    WRITE: "write",
    FSYNC: "fsync",
    FSYNCDIR: "fsyncdir",
    CREATE: "create",
    RENAME2: "rename",
}
NAMES = {**CHANGES, FLUSH: "flush", READ: "read", RELEASE: "release"}
MAX_WRITE = 1 << 20
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
SET_MODE, SET_SIZE, SET_MTIME, SET_MTIME_NOW = 1, 1 << 3, 1 << 5, 1 << 8
NOREPLACE = 1
CAPACITY = 256 << 20
ROOT = 1


class Node:
    def __init__(self, mode):
        self.mode, self.bytes, self.links, self.mtime = mode, bytearray(), 1, time.time_ns()
        self.synced = b""

    def attr(self, number):
        size, (seconds, nanos) = len(self.bytes), divmod(self.mtime, 10**9)
        return struct.pack(
            "<6Q10I",
            number,
            size,
            -(-size // 512),
            seconds,
            seconds,
            seconds,
            nanos,
            nanos,
            nanos,
            self.mode,
            self.links,
            0,
            0,
            0,
            4096,
            0,
        )


class Plain:
    def __init__(self, kind, device):
        self.kind, self.device = kind, device
        self.hanging, self.held, self.failing, self.skipping = set(), [], {}, set()
        self.resending = set()
        self.nodes = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self.names, self.synced_names = {}, {}
        self.next = ROOT + 1
        self.nth, self.errno, self.counted = 0, 0, []

    def entry(self, number):
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + self.nodes[number].attr(number)

    def find(self, name):
        if name not in self.names:
            raise OSError(errno.ENOENT, "")
        return self.names[name]

    def serve(self, opcode, number, rest):
        if number and number not in self.nodes:
            raise OSError(errno.ESTALE, "")
        if opcode in CHANGES:
            self.counted.append(CHANGES[opcode])
            if len(self.counted) == self.nth:
                raise OSError(self.errno, "")
        if code := self.failing.get(NAMES.get(opcode)):
            raise OSError(code, "")
        if opcode == INIT:
            major, minor, ahead, _ = struct.unpack_from("<4I", rest)
            return struct.pack(
                "<4I2H2I2H8I",
                7,
                min(minor, 31),
                ahead,
                BIG_WRITES | MAX_PAGES,
                16,
                12,
                MAX_WRITE,
                1,
                MAX_WRITE // 4096,
                0,
                *([0] * 8),
            )
        if opcode == LOOKUP:
            return self.entry(self.find(rest.rstrip(b"\0")))
        if opcode == GETATTR:
            return struct.pack("<Q2I", 0, 0, 0) + self.nodes[number].attr(number)
        if opcode == SETATTR:
            valid, _, _, size, *_ = struct.unpack_from("<2I3Q", rest)
            node = self.nodes[number]
            if valid & SET_SIZE:
                self.resize(node, size)
                node.mtime = time.time_ns()
            if valid & SET_MODE:
                (mode,) = struct.unpack_from("<I", rest, 68)
                node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
            return struct.pack("<Q2I", 0, 0, 0) + node.attr(number)
        if opcode == CREATE or (opcode == TMPFILE and self.kind == "unnamed"):
            _, mode, _, _ = struct.unpack_from("<4I", rest)
            name = rest[16:].rstrip(b"\0")
            if opcode == CREATE and name in self.names:
                raise OSError(errno.EEXIST, "")
            number, self.next = self.next, self.next + 1
            node = self.nodes[number] = Node(stat.S_IFREG | stat.S_IMODE(mode))
            if opcode == TMPFILE:
                node.links = 0
            else:
                self.names[name] = number
            return self.entry(number) + struct.pack("<QIi", 0, 0, 0)
        if opcode == LINK:
            if self.kind == "no-links":
                raise OSError(errno.EPERM, "")
            (old,), name = struct.unpack_from("<Q", rest), rest[8:].rstrip(b"\0")
            if name in self.names:
                raise OSError(errno.EEXIST, "")
            self.names[name] = old
            self.nodes[old].links += 1
            return self.entry(old)
        if opcode == UNLINK:
            name = rest.rstrip(b"\0")
            self.nodes[self.find(name)].links -= 1
            del self.names[name]
            return b""
        if opcode == RENAME2:
            _, flags, _ = struct.unpack_from("<Q2I", rest)
            old, new = rest[16:].rstrip(b"\0").split(b"\0")
            number = self.find(old)
            if flags & ~NOREPLACE:
                raise OSError(errno.EINVAL, "")
            if flags & NOREPLACE and new in self.names:
                raise OSError(errno.EEXIST, "")
            del self.names[old]
            self.names[new] = number
            return b""
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QIi", 0, 0, 0)
        if opcode == READ:
            _, at, size = struct.unpack_from("<2QI", rest)
            return bytes(self.nodes[number].bytes[at : at + size])
        if opcode == WRITE:
            _, at, size = struct.unpack_from("<2QI", rest)
            node = self.nodes[number]
            if at + size > len(node.bytes):
                self.resize(node, at + size)
            node.bytes[at : at + size] = rest[40 : 40 + size]
            node.mtime = time.time_ns()
            return struct.pack("<2I", size, 0)
        if opcode == READDIR:
            _, at, size = struct.unpack_from("<2QI", rest)
            out = b""
            for place, (name, node) in list(enumerate(self.names.items(), 1))[at:]:
                line = struct.pack("<2Q2I", node, place, len(name), stat.S_IFREG >> 12) + name
                line += b"\0" * (-len(line) % 8)
                if len(out) + len(line) > size:
                    break
                out += line
            return out
        if opcode == STATFS:
            free = (CAPACITY - self.used()) // 4096
            return struct.pack(
                "<5Q10I", CAPACITY // 4096, free, free, 1000, 1000, 4096, 255, 4096, *([0] * 7)
            )
        if opcode == FSYNC and "fsync" not in self.skipping:
            self.nodes[number].synced = bytes(self.nodes[number].bytes)
        if opcode == FSYNCDIR and "fsyncdir" not in self.skipping:
            self.synced_names = dict(self.names)
        if opcode in (RELEASE, RELEASEDIR, FSYNC, FSYNCDIR, FLUSH, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def used(self):
        return sum(len(node.bytes) for node in self.nodes.values())

    def resize(self, node, size):
        more = size - len(node.bytes)
        if more > CAPACITY - self.used():
            raise OSError(errno.ENOSPC, "")
        if more > 0:
            node.bytes.extend(bytes(more))
        else:
            del node.bytes[size:]

    def forget(self, number):
        node = self.nodes.get(number)
        if number in (ROOT, *self.synced_names.values()):
            return
        if node and node.links == 0:
            del self.nodes[number]

    def lose(self):
        self.names = dict(self.synced_names)
        there = {ROOT, *self.names.values()}
        self.nodes = {number: node for number, node in self.nodes.items() if number in there}
        for number in self.names.values():
            node = self.nodes[number]
            node.bytes = bytearray(node.synced)
            node.links = list(self.names.values()).count(number)

    def obey(self, line):
        word, *rest = line.split()
        if word == "plan":
            counted, self.counted = self.counted, []
            self.nth, self.errno = int(rest[0]), int(rest[1])
            print(" ".join(["counted", *counted]), flush=True)
        elif word == "hang":
            self.hanging.update(rest)
            print("hangs", flush=True)
        elif word == "resend":
            self.resending.update(rest)
            print("resends", flush=True)
        elif word == "skip":
            self.skipping.update(rest)
            print("skips", flush=True)
        elif word == "lose":
            self.lose()
            print("lost", flush=True)
        elif word == "fail":
            self.failing[rest[0]] = int(rest[1])
            print("fails", flush=True)
        elif word == "held":
            print("held", len(self.held), flush=True)
        else:
            assert word == "free", line
            held, self.held = self.held, []
            self.hanging.clear()
            for request in held:
                self.answer(request)
            print("freed", flush=True)

    def take(self, request):
        _, opcode, _, number = struct.unpack_from("<2I2Q", request)
        if opcode == FORGET:
            self.forget(number)
        elif opcode == BATCH_FORGET:
            (count,) = struct.unpack_from("<I", request, 40)
            for n in range(count):
                self.forget(struct.unpack_from("<Q", request, 48 + 16 * n)[0])
        elif opcode == INTERRUPT:
            pass
        elif NAMES.get(opcode) in self.hanging:
            self.held.append(request)
        else:
            self.answer(request)

    def answer(self, request):
        _, opcode, unique, number = struct.unpack_from("<2I2Q", request)
        try:
            if NAMES.get(opcode) in self.resending:
                with contextlib.suppress(OSError):
                    self.serve(opcode, number, request[40:])
            answer, code = self.serve(opcode, number, request[40:]), 0
        except OSError as error:
            answer, code = b"", -error.errno
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(answer), code, unique) + answer)
        except OSError:
            pass  # whoever asked has gone


def block_device():
    """A loop device over a small file; it goes when the filesystem does."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 20)
        command = ["losetup", "--find", "--show", file.name]
        device = subprocess.check_output(command).strip()
        opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        # While it is open or mounted it stays.
        subprocess.check_call(["losetup", "--detach", device])
        atexit.register(os.close, opened)
        return device


def main():
    _, directory, kind = sys.argv
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    source, system = b"plain", b"fuse"
    if kind == "on-a-device":
        source, system = block_device(), b"fuseblk"
    if libc.mount(source, directory.encode(), system, 0, options.encode()) != 0:
        code = ctypes.get_errno()
        sys.exit(f"cannot mount a FUSE filesystem on {directory}: {os.strerror(code)}")
    plain = Plain(kind, device)
    print("ready", flush=True)
    commands = b""
    while True:
        ready, _, _ = select.select([device, 0], [], [])
        if 0 in ready:
            more = os.read(0, 4096)
            if not more:
                break
            *lines, commands = (commands + more).split(b"\n")
            for line in lines:
                plain.obey(line.decode())
        if device not in ready:
            continue
        try:
            request = os.read(device, MAX_WRITE + 8192)
        except OSError as error:
            if error.errno == errno.ENODEV:
                break  # unmounted
            continue
        plain.take(request)
    # Unmounting one on a device asks it for a last answer, which nobody here would give.
    os.close(device)
    libc.umount2(directory.encode(), 2)  # MNT_DETACH


main()
