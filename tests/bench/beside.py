"""What the comparisons with glance_store share: a release build, a daemon with one store, the peer."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.append(str(HOME / "ffi/python"))
import imaged

RIGS = Path(os.environ.get("IMAGED_RIGS", HOME / "target/rigs")).absolute()
MIB = 1 << 20
GIB = 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")
PYTHON = "imaged, Python's client"

CONFIG = """\
[DEFAULT]
enabled_backends = {stores}
[glance_store]
default_backend = fast
[fast]
{options}
[imaged]
state_dir = {dir}/state
# The client keeps its connection while others have their turns.
idle_timeout_s = 86400
{more}
"""


def run(*command, **more):
    words = [str(word) for word in command]
    return subprocess.run(
        words, check=True, cwd=HOME, text=True, stdout=subprocess.PIPE, **more
    ).stdout


def timed(*command):
    since = time.perf_counter()
    run(*command)
    return time.perf_counter() - since


def release_build():
    run("cargo", "build", "--release", "--locked")
    return Path(os.environ.get("CARGO_TARGET_DIR", HOME / "target")) / "release/imaged"


def cpu(pid):
    """CPU seconds of a process up to now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def own_cpu():
    """Of this process and of those that it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


class Daemon:
    """An imaged that serves the store `fast`; what it needs is in DIR.

    `more` ends its configuration; stores that have their sections there are named in `others`.
    """

    def __init__(self, program, directory, kind, options, more="", others=()):
        self.program, self.socket = program, directory / "socket"
        self.python = imaged.Client(self.socket)
        config, log = directory / "imaged.conf", directory / "log"
        text = "\n".join(f"{name} = {value}" for name, value in options.items())
        stores = ", ".join([f"fast:{kind}", *others])
        config.write_text(CONFIG.format(stores=stores, options=text, dir=directory, more=more))
        with open(log, "w", encoding="utf-8") as to:
            command = [program, "serve", "--config-file", config, "--socket", self.socket]
            self.process = subprocess.Popen(command, stderr=to)
        ready = [program, "stat", "fast", "nothing", "--socket", self.socket]
        for _ in range(300):
            # 4: the store answers, and has no such image.
            if subprocess.run(ready, capture_output=True, check=False).returncode == 4:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.stop()
        sys.exit("imaged does not come up:\n" + log.read_text())

    def bench(self, *words):
        os.sync()
        text = run(self.program, "bench", "fast", "--json", "--socket", self.socket, *words)
        report = json.loads(text)
        report["of"] = {one["op"]: one for one in report["ops"]}
        return report

    def read(self, store, name):
        """By Python's client, as Glance does: nobody here compares the digest."""
        for _ in self.python.get(store, name, verify=False):
            pass

    def memory(self, field):
        """In MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Peer:
    """glance_store with one store of the same kind and options."""

    def __init__(self, kind, options):
        python = run(HOME / "ci/glance-store", RIGS / "glance-store").strip()
        self.command = [python, HOME / "tests/parity/peer.py", kind]
        for name, value in options.items():
            self.command += ["-o", f"{name}={value}"]

    def __call__(self, *words, options=()):
        more = [word for option in options for word in ("-o", option)]
        return json.loads(run(*self.command, *more, *words, stderr=subprocess.PIPE))


def write_source(path, size):
    """Bytes that no one can shorten, on the disk."""
    with open(path, "wb") as out:
        while size:
            size -= out.write(os.urandom(min(size, 4 << 20)))
        out.flush()
        os.fsync(out.fileno())


def write_sparse(path, mib, every):
    """One MiB in so many that no one can shorten, and holes between them."""
    with open(path, "wb") as out:
        for at in range(0, mib, every):
            out.seek(at * MIB)
            out.write(os.urandom(min(mib - at, 1) * MIB))
        out.truncate(mib * MIB)
        out.flush()
        os.fsync(out.fileno())


def in_turn(names, run):
    """The names, beginning with another one in each run."""
    first = run % len(names)
    return names[first:] + names[:first]


def tell(args, found, report):
    """Prints what was found: for people, or all of it."""
    if args.json:
        json.dump(found, sys.stdout)
        print()
    else:
        report(args, found)


def middle(runs, of):
    return statistics.median(of(one) for one in runs)


def ratio(found, name, other, key="seconds"):
    """How many times NAME has the OTHER's figure, as the median within runs."""
    pairs = [
        (one[key], another[key])
        for one, another in zip(found.get(name, []), found.get(other, []))
        # What took less than a tick compares with nothing.
        if "error" not in one and "error" not in another and one[key]
    ]
    return statistics.median(theirs / ours for ours, theirs in pairs) if pairs else None


def show(number, form="{:.2f}"):
    return "-" if number is None else form.format(number)


def table(heads, rows):
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
