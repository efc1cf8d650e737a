"""glance_store's own filesystem driver as a command: what imaged is compared with.

    glance_store_file.py [--thin] put DIR ID FILE [--unknown-size | --size BYTES] [--algo A]
    glance_store_file.py [--thin] get DIR ID OUT
    glance_store_file.py [--thin] size DIR ID
    glance_store_file.py [--thin] delete DIR ID
    glance_store_file.py [--thin] bench DIR FILE N

Run it with the Python that `ci/glance-store` prints. Each command prints one line of JSON; a
failure is {"error": CLASS} with exit code 1. FILE and OUT may be `-`.

The library is set up as Glance sets it up: a configuration file with `enabled_backends`, and the
multi-store calls. One store, `fast`, of type `file`, keeps its images in DIR.
"""

import argparse
import json
import os
import sys
import tempfile
import time

import glance_store
from oslo_config import cfg

STORE = "fast"

CONFIG = """\
[DEFAULT]
enabled_backends = {store}:file
[glance_store]
default_backend = {store}
[{store}]
filesystem_store_datadir = {dir}
filesystem_thin_provisioning = {thin}
"""


def set_up(directory, thin):
    # The library reads the process-wide CONF in places, whichever one it is given.
    conf = cfg.CONF
    conf.register_opts([cfg.DictOpt("enabled_backends")])  # Glance registers it, not glance_store
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as text:
        # `$` begins an interpolation in oslo.config.
        text.write(CONFIG.format(store=STORE, dir=directory.replace("$", "$$"), thin=thin))
        text.flush()
        conf([], project="glance", default_config_files=[text.name], default_config_dirs=[])
    glance_store.register_store_opts(conf)
    glance_store.create_multi_stores(conf)
    glance_store.verify_store()
    return conf


def add(conf, image_id, source, size, algo):
    return glance_store.add_with_multihash(conf, image_id, source, size, STORE, algo)


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
        uri, size, checksum, hash_value, metadata = add(conf, args.id, source, size, args.algo)
    return {
        "uri": uri,
        "size": size,
        "checksum": checksum,
        "hash_value": hash_value,
        "metadata": metadata,
    }


def get(conf, args):
    chunks, size = glance_store.get(uri_of(args), STORE)
    with open_file(args.out, "wb") as out:
        for chunk in chunks:
            out.write(chunk)
    return {"size": size}


def size(conf, args):
    return {"size": glance_store.get_size_from_uri_and_backend(uri_of(args), STORE)}


def delete(conf, args):
    glance_store.delete(uri_of(args), STORE)
    return {}


def bench(conf, args):
    """Each run puts the file anew with md5 and sha512, Glance's default, and deletes it, untimed."""
    runs = []
    for run in range(args.count):
        image_id = f"bench-{os.getpid()}-{run}"
        with open(args.file, "rb") as source:
            size = size_of(source)
            wall, cpu = time.perf_counter(), time.process_time()
            uri, *_ = add(conf, image_id, source, size, "sha512")
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        runs.append({"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)})
        glance_store.delete(uri, STORE)
    return {"size": size, "runs": runs}


def uri_of(args):
    return f"file://{args.dir}/{args.id}"


def open_file(name, mode):
    if name != "-":
        return open(name, mode)
    # The answer's line goes to stdout too, behind the bytes: a copy of the descriptor outlives `with`.
    return os.fdopen(os.dup(0 if mode == "rb" else 1), mode)


def command_line():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--thin", action="store_true", help="filesystem_thin_provisioning")
    commands = parser.add_subparsers(required=True)

    def command(run, *names):
        sub = commands.add_parser(run.__name__)
        # Also after the command; SUPPRESS keeps it from undoing one given before.
        sub.add_argument("--thin", action="store_true", default=argparse.SUPPRESS)
        sub.add_argument("dir", type=os.path.abspath)
        for name in names:
            sub.add_argument(name)
        sub.set_defaults(run=run)
        return sub

    sub = command(put, "id", "file")
    promise = sub.add_mutually_exclusive_group()
    promise.add_argument("--unknown-size", action="store_true")
    promise.add_argument("--size", type=int, help="the size to promise, when not the file's own")
    sub.add_argument("--algo", default="sha512")
    command(get, "id", "out")
    command(size, "id")
    command(delete, "id")
    command(bench, "file").add_argument("count", type=int)
    return parser.parse_args()


def main():
    args = command_line()
    try:
        print(json.dumps(args.run(set_up(args.dir, args.thin), args)))
    except Exception as error:  # whatever its class is, the class is the answer
        print(json.dumps({"error": type(error).__name__}))
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
