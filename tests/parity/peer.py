"""glance_store's own drivers as a command: what imaged is compared with.

    peer.py TYPE [-o NAME=VALUE]... put ID FILE [--unknown-size | --size BYTES] [--algo A]
    peer.py TYPE [-o NAME=VALUE]... get URI OUT
    peer.py TYPE [-o NAME=VALUE]... size URI [--times N]
    peer.py TYPE [-o NAME=VALUE]... delete URI
    peer.py TYPE [-o NAME=VALUE]... serve

TYPE is a driver's, `file`, `rbd`, `s3`, `swift`, `cinder` or `http`; the options are its own. Run it with the
Python that `ci/glance-store` prints. Each command prints one line of JSON, in which `seconds` and
`cpu_seconds` are those of the call alone, and `rss_mib` is the most memory that the process had; a
failure is {"error": CLASS} with exit code 1. FILE and OUT may be `-`. `serve` does what the lines of its
standard input say, each the words of a command as a list in JSON: to start takes longer than all else.

The library is set up as Glance sets it up: a configuration file with `enabled_backends`, and the
multi-store calls. There is one store, `fast`, and each request is
of the project `p-1`.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import types

import glance_store
from oslo_config import cfg

STORE = "fast"
# Whose request it is: cinder's driver notes the project, though its options say who logs in.
CONTEXT = types.SimpleNamespace(project_id="p-1", user_id="u-1", auth_token="", service_catalog=[])


def set_up(args, home):
    # The library reads the process-wide CONF in places, whichever one it is given.
    conf = cfg.CONF
    conf.register_opts([cfg.DictOpt("enabled_backends")])  # Glance registers it, not glance_store
    file = os.path.join(home, "glance.conf")
    with open(file, "w") as text:
        print(f"[DEFAULT]\nenabled_backends = {STORE}:{args.type}", file=text)
        print(f"[oslo_concurrency]\nlock_path = {home}", file=text)
        print(f"[glance_store]\ndefault_backend = {STORE}\n[{STORE}]", file=text)
        for option in args.options:
            # `$` begins an interpolation in oslo.config.
            print(option.replace("$", "$$"), file=text)
    conf([], project="glance", default_config_files=[file], default_config_dirs=[])
    glance_store.register_store_opts(conf)
    glance_store.create_multi_stores(conf)
    glance_store.verify_store()
    return conf


class Timed:
    """How long what is done `with` it takes, and the CPU seconds of this process meanwhile."""

    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.cpu = round(time.process_time() - self.cpu, 4)
        self.wall = round(time.perf_counter() - self.wall, 4)

    def answer(self, **more):
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
        return {"seconds": self.wall, "cpu_seconds": self.cpu, "rss_mib": peak, **more}


def size_of(source):
    """What is left of a regular file; 0, which means unknown, for a pipe."""
    try:
        return os.fstat(source.fileno()).st_size - source.tell()
    except OSError:
        return 0


def put(conf, args):
    with open_file(args.file, "rb") as source:
        size = args.size
        if size is None:
            size = 0 if args.unknown_size else size_of(source)
        with Timed() as timed:
            uri, size, checksum, hash_value, metadata = glance_store.add_with_multihash(
                conf, args.id, source, size, STORE, args.algo, context=CONTEXT
            )
    return timed.answer(
        uri=uri, size=size, checksum=checksum, hash_value=hash_value, metadata=metadata
    )


def get(conf, args):
    with open_file(args.out, "wb") as out, Timed() as timed:
        chunks, size = glance_store.get(args.uri, STORE)
        for chunk in chunks:
            out.write(chunk)
    return timed.answer(size=size)


def size(conf, args):
    seconds = []
    for _ in range(args.times):
        with Timed() as timed:
            size = glance_store.get_size_from_uri_and_backend(args.uri, STORE)
        seconds.append(timed.wall)
    return {"size": size, "seconds": seconds}


def delete(conf, args):
    with Timed() as timed:
        glance_store.delete(args.uri, STORE)
    return timed.answer()


def open_file(name, mode):
    if name != "-":
        return open(name, mode)
    # The answer's line goes to stdout too, behind the bytes: a copy of the descriptor outlives `with`.
    return os.fdopen(os.dup(0 if mode == "rb" else 1), mode)


def serve(conf, args):
    for line in sys.stdin:
        try:
            said = command_line([args.type, *json.loads(line)])
            print(json.dumps(said.run(conf, said)), flush=True)
        except Exception as error:
            print(json.dumps(failed(error)), flush=True)


def failed(error):
    """The answer: whatever its class is, the class is that."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return {"error": type(error).__name__}


def command_line(words=None):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("type")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="NAME=VALUE")
    commands = parser.add_subparsers(required=True)

    def command(run, *names):
        sub = commands.add_parser(run.__name__)
        for name in names:
            sub.add_argument(name)
        sub.set_defaults(run=run)
        return sub

    sub = command(put, "id", "file")
    promise = sub.add_mutually_exclusive_group()
    promise.add_argument("--unknown-size", action="store_true")
    promise.add_argument("--size", type=int, help="the size to promise, when not the file's own")
    sub.add_argument("--algo", default="sha512")
    command(get, "uri", "out")
    command(size, "uri").add_argument("--times", type=int, default=1)
    command(delete, "uri")
    command(serve)
    return parser.parse_args(words)


def main():
    args = command_line()
    try:
        # It stays meanwhile: the helpers that os-brick runs as root read the configuration too.
        with tempfile.TemporaryDirectory() as home:
            answer = args.run(set_up(args, home), args)
            if answer is not None:
                print(json.dumps(answer))
    except Exception as error:
        print(json.dumps(failed(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
