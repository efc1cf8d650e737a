"""How Glance starts: what is asked of the daemon is had, or told; nothing is left out silently."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import textwrap
import time

import pytest
from servers import Mute
from stores import CONF, fast, get_store, local

import imaged
from imaged.glance import asked, store
from imaged.glance.store import Served

# A process of Glance, up to where its stores are there.
PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
import glance_store
from glance_store import location, multi_backend
{change}
from oslo_config import cfg
try:
    from glance.common import config
except ImportError:
    cfg.CONF.register_opts([cfg.DictOpt("enabled_backends")])
else:
    config.set_config_defaults()
cfg.CONF([], project="glance", default_config_files=[sys.argv[1]])
reserved = {{"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}}
glance_store.register_store_opts(cfg.CONF, reserved_stores=dict(reserved))
glance_store.create_multi_stores(cfg.CONF, reserved_stores=dict(reserved))
print("started with", type(location.SCHEME_TO_CLS_BACKEND_MAP["file"]["fast"]["store"]).__name__)
"""
CHANGES = {
    "nothing": "",
    "another signature": """
        original = multi_backend._load_multi_store
        multi_backend._load_multi_store = lambda *args, **more: original(*args, **more)
    """,
    "another name": """
        original = multi_backend._load_multi_store
        def stores(conf, reserved_stores=None):
            for backend, kind in {**conf.enabled_backends, **(reserved_stores or {})}.items():
                yield kind, original(conf, kind, backend=backend), backend
        def options():
            from glance_store._drivers import filesystem
            from stevedore import extension
            extension.ExtensionManager("glance_store.drivers")
            return {"file": filesystem.Store.OPTIONS}
        multi_backend._load_multi_stores = stores
        multi_backend._list_driver_opts = options
        del multi_backend._load_multi_store
    """,
    "no creation by that name": "del multi_backend.create_multi_stores",
    "others who load": """
        original = multi_backend._load_multi_store
        def stores(conf, reserved_stores=None):
            for backend, kind in {**conf.enabled_backends, **(reserved_stores or {})}.items():
                yield kind, original(conf, kind, backend=backend), backend
        multi_backend._load_multi_stores = stores
    """,
    "a part of ours that is missing": 'sys.modules["imaged.glance.store"] = None',
    "another part": 'sys.modules["imaged.glance.search"] = None',
    "an exception of theirs that is missing": """
        import glance_store.exceptions
        del glance_store.exceptions.RemoteServiceUnavailable
    """,
    "a later version": """
        import importlib.metadata
        importlib.metadata.version = lambda name: "5.8.0"
    """,
}


def start_a_process(directory, change: str, *sections: str) -> subprocess.CompletedProcess[str]:
    """A Glance whose glance_store, or whose imaged, is another one."""
    path = directory / "glance-api.conf"
    path.write_text(
        "[DEFAULT]\nenabled_backends = fast:file\n[glance_store]\ndefault_backend = fast\n"
        + "".join(
            f"[os_glance_{name}_store]\nfilesystem_store_datadir = {directory}/{name}\n"
            for name in ("staging", "tasks")
        )
        + "\n".join(sections)
    )
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            PROGRAM.format(change=textwrap.dedent(change)),
            path,
        ],
        capture_output=True,
        check=False,
        # Not where the tests run: beside them may be another imaged than the one that is installed.
        cwd=directory,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_store_that_asks_for_the_daemon_is_served_without_it(shared, tmp_path, change):
    done = start_a_process(tmp_path, change, fast(shared))
    if not change:
        assert done.stdout == "started with ServedFile\n", done.stderr
        return
    assert done.returncode and not done.stdout, done.stdout
    critical = [line for line in done.stderr.splitlines() if line.startswith("CRITICAL")]
    assert critical, done.stderr
    assert "imaged_socket" in critical[0] and "fast" in critical[0]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_who_asks_for_nothing_is_never_stopped(shared, tmp_path, change):
    done = start_a_process(tmp_path, change, fast(shared, socket=""))
    assert done.stdout == "started with Store\n", done.stderr
    assert "CRITICAL" not in done.stderr


def test_an_algorithm_that_the_daemon_lacks_is_refused_at_the_start(glance, shared, caplog):
    pytest.importorskip("glance", reason="the option is Glance's")
    glance.more = "[DEFAULT]\nhashing_algorithm = sha3_256\n"
    with pytest.raises(RuntimeError, match=r"algorithm is sha3_256.*fast.*one of blake2b"):
        glance.start("fast:file", fast(shared))
    assert [one for one in caplog.records if one.levelno == logging.CRITICAL]
    # It is Glance's own affair where Glance does it.
    glance.start("local:file", local(shared))
    glance.more = "[DEFAULT]\nhashing_algorithm = blake2b\n"
    glance.start("fast:file", fast(shared))


@pytest.mark.parametrize(
    "path",
    ["run/imaged.sock", "unix:///run/imaged.sock", f"/{'x' * 107}", "/run/imaged.sock  # ours"],
)
def test_what_is_no_path_of_a_socket_is_refused_at_the_start(glance, shared, path):
    with pytest.raises(RuntimeError, match="imaged_socket of the store fast"):
        glance.start("fast:file", fast(shared, socket=path))


def warned(caplog) -> str:
    return "\n".join(one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)


@pytest.mark.parametrize("section", ["glance_store", "backend_defaults", "DEFAULT", "fast"])
def test_a_single_store_is_not_served_and_that_is_told(glance, shared, caplog, section):
    from glance_store import backend

    path = glance.dir / "glance-api.conf"
    lines = f"[{section}]\nimaged_socket = {shared.socket}\n"
    path.write_text(f"[glance_store]\nfilesystem_store_datadir = {shared.dir}/fast\n{lines}")
    CONF.reset()
    CONF([], project="glance", default_config_files=[str(path)])
    backend._list_opts()
    told = warned(caplog)
    assert f"imaged_socket in [{section}]" in told and "enabled_backends" in told
    # Glance does so again for each image that is staged.
    caplog.clear()
    backend._list_opts()
    assert not warned(caplog)


@pytest.mark.parametrize("section", ["glance_store", "DEFAULT", "fsat", "os_glance_staging_store"])
def test_a_line_that_is_in_no_stores_section_is_told(glance, shared, caplog, section):
    more = f"[{section}]\nimaged_socket = {shared.socket}\n"
    glance.start("fast:file", fast(shared), more)
    assert f"imaged_socket in [{section}] of Glance's configuration has no effect" in warned(caplog)
    assert "[fast]" not in warned(caplog)


def test_a_timeout_without_a_socket_is_told(glance, shared, caplog):
    glance.start("local:file", local(shared) + "imaged_timeout = 5\n")
    assert "imaged_timeout in [local]" in warned(caplog)
    caplog.clear()
    glance.start("fast:file", fast(shared, "imaged_timeout = 5"))
    assert not warned(caplog)


def test_a_directory_that_differs_is_told_with_both(glance, shared, caplog):
    elsewhere = fast(shared).replace(f"{shared.dir}/fast", f"{shared.dir}/other/")
    glance.start("fast:file", elsewhere)
    told = warned(caplog)
    assert f"directories is {shared.dir}/other for Glance" in told
    assert f"{shared.dir}/fast for imaged" in told and "The store fast" in told
    caplog.clear()
    several = f"datadirs = {shared.dir}/fast/:200\nfilesystem_store_datadirs = {shared.dir}/b"
    both = fast(shared).replace(f"datadir = {shared.dir}/fast", several)
    glance.start("fast:file", both)
    assert f"directories is {shared.dir}/b, {shared.dir}/fast for Glance" in warned(caplog)
    caplog.clear()
    glance.start("fast:file", fast(shared).replace("/fast\n", "//fast/\n"))
    assert not warned(caplog)


#: What glance_store's own drivers of these types import.
NEEDS = {"s3": ["boto3"], "swift": ["swiftclient"], "cinder": ["cinderclient", "os_brick"]}


@pytest.mark.parametrize(
    ("kind", "options", "properties", "told"),
    [
        ("rbd", "rbd_store_pool = vms", {"pool": "images"}, "pool is vms for Glance and images"),
        ("rbd", "", {"pool": "images"}, None),
        (
            "s3",
            "s3_store_host = https://S3.example/\ns3_store_bucket = a",
            {"s3_store_host": "https://s3.example", "s3_store_bucket": "b"},
            "bucket is a for Glance and b",
        ),
        (
            "s3",
            "s3_store_host = one.example\ns3_store_bucket = a",
            {"s3_store_host": "https://two.example", "s3_store_bucket": "a"},
            "server is one.example for Glance and two.example",
        ),
        ("s3", "", {"s3_store_host": "https://s3.example", "s3_store_bucket": "b"}, None),
        (
            "swift",
            "swift_store_container = x",
            {"container": "y"},
            "container is x for Glance and y",
        ),
        ("swift", "", {"container": "glance"}, None),
        ("cinder", "cinder_volume_type = x", {"volume_type": "y"}, "volume type is x"),
        ("cinder", "", {"volume_type": "y"}, None),
        ("http", "", {}, None),
    ],
)
def test_a_place_that_differs_is_told_with_both(
    glance, shared, caplog, monkeypatch, kind, options, properties, told
):
    for module in NEEDS.get(kind, ()):
        pytest.importorskip(module)
    known = imaged.Store(id="one", type=kind, state="up", properties=properties)
    monkeypatch.setattr(imaged.Client, "stores", lambda self: [known])
    glance.start(f"one:{kind}", f"[one]\nimaged_socket = {shared.socket}\n{options}\n")
    assert isinstance(get_store("one"), Served)
    if told:
        assert told in warned(caplog)
    else:
        assert "same place" not in warned(caplog)


def test_a_store_that_is_down_or_cannot_be_written_is_told(glance, shared, caplog):
    sections = [f"[{name}]\nimaged_socket = {shared.socket}\n" for name in ("broken", "frozen")]
    glance.start("broken:file, frozen:file", *sections)
    assert "The store broken is down for imaged" in warned(caplog)
    assert "The store frozen can only be read through imaged: imaged_read_only" in warned(caplog)


def test_what_differs_is_told_later_where_the_daemon_comes_later(glance, daemon, caplog):
    daemon.kill()
    elsewhere = fast(daemon).replace(f"{daemon.dir}/fast", f"{daemon.dir}/other")
    glance.start("fast:file", elsewhere)
    assert "not available until imaged is" in warned(caplog) and "place" not in warned(caplog)
    daemon.start()
    for _ in range(2):
        glance.add(io.BytesIO(b"image"))
    assert warned(caplog).count("is not in the same place") == 1


@pytest.fixture
def mute(tmp_path):
    """Sockets that accept and never answer."""
    servers = []

    def another() -> str:
        servers.append(Mute(path := str(tmp_path / f"mute-{len(servers)}")))
        return path

    yield another
    for one in servers:
        one.close()


@pytest.mark.parametrize("daemons", [1, 3])
def test_daemons_that_hang_delay_the_start_once(glance, shared, mute, monkeypatch, daemons):
    monkeypatch.setattr(store, "BRIEFLY", 1.5)
    paths = [mute() for _ in range(daemons)]
    names = [f"store-{number}" for number in range(6)]
    sections = [
        f"[{name}]\nfilesystem_store_datadir = {shared.dir}/fast\n"
        f"imaged_socket = {paths[number % daemons]}\n"
        for number, name in enumerate(names)
    ]
    began = time.monotonic()
    glance.start(", ".join(f"{name}:file" for name in names), *sections)
    assert 1.0 < time.monotonic() - began < 4.0
    assert all(isinstance(get_store(name), Served) for name in names)


def test_the_configuration_is_asked_and_not_a_copy_of_it(glance, shared):
    """Read again, with another line, it is as it is then."""
    glance.start("fast:file", fast(shared))
    assert asked.stores() == {"fast": shared.socket}
    glance.start("fast:file", fast(shared, socket=""))
    assert asked.stores() == {} and not isinstance(get_store(), Served)
    glance.start("fast:file", fast(shared))
    assert isinstance(get_store(), Served)
