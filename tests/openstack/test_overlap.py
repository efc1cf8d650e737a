"""Changes of an image while its bytes come: what is stored stays active, and no change is lost.

Glance reads an image, and writes it whole when a request ends: over what others have written in
between. A protected property that a server of the test's is asked about holds a change in between.
"""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from changes import Fault, deactivate, patch, tag
from cloud import Glance, until

pytestmark = [
    pytest.mark.imaged,
    pytest.mark.xfail(raises=Fault, strict=True, reason="Glance writes back what it had read"),
]


class Gate(ThreadingHTTPServer):
    """Says that everything is allowed, once it is open."""

    def __init__(self):
        self.arrived, self.opened = threading.Event(), threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                gate.arrived.set()
                gate.opened.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"True")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def gate():
    with Gate() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def slow(rig, gate):
    """A Glance that asks the gate when it has read an image with the property `x_held`."""
    rig.use("imaged")
    path = rig.folder / "glance" / "protections.conf"
    everyone = "".join(f"{operation} = everyone\n" for operation in ("create", "update", "delete"))
    path.write_text(f"[^x_held$]\n{everyone}read = gate\n[.*]\n{everyone}read = everyone\n")
    conf = (
        f"[DEFAULT]\nproperty_protection_file = {path}\n"
        "property_protection_rule_format = policies\n"
    )
    asked = f'"http://127.0.0.1:{gate.server_port}/"'
    policy = f'"everyone": "@"\n"gate": {asked}\n"deactivate": {asked}\n'
    with rig.beside(conf, policy) as url:
        yield Glance(rig, url=url)
    path.unlink()


@pytest.fixture
def held(gate, slow):
    """Holds a change, which has read the image, until the block ends."""

    @contextlib.contextmanager
    def hold(change, image):
        gate.arrived.clear()
        gate.opened.clear()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(change, slow, image)
            # What fails before the block ends is to fail, not to wait.
            try:
                until("it to ask", lambda: gate.arrived.is_set() or done.done(), 30)
                assert not done.done(), done.result()
                yield
            finally:
                gate.opened.set()
            done.result(60)

    return hold


def new_property(glance, image):
    assert patch(glance, image, "add", "/x_new", "value") == 200


CHANGES = (new_property, tag)


class Slow:
    """A body of which the second half comes when it is called."""

    def __init__(self, glance, image):
        self.begun, self.rest = threading.Event(), threading.Event()
        self.body = bytes(100_000)
        self.pool = ThreadPoolExecutor(1)
        self.answer = self.pool.submit(
            glance.upload, image, self._pieces(), "fast", expect=(204, 410)
        )
        until("the upload to begin", lambda: glance.show(image)["status"] == "saving")

    def _pieces(self):
        yield self.body
        self.rest.wait(60)
        yield self.body

    def end(self):
        self.rest.set()
        status = self.answer.result(60).status_code
        self.pool.shutdown()
        return status


def all_are(faulty, found):
    """Fails by the fault, if each change has led to it; if only some have, otherwise."""
    if set(found) == {faulty}:
        raise Fault(f"each leads to {faulty}")
    assert faulty not in found


def test_a_change_past_the_end_of_an_upload(imaged, held):
    found = []
    for change in CHANGES:
        image = imaged.create(x_held="yes")
        upload = Slow(imaged, image)
        with held(change, image):
            assert upload.end() == 204
            assert imaged.show(image)["status"] == "active"
        facts = imaged.show(image)
        found.append((facts["status"], facts["size"], facts["checksum"]))
    # Its bytes are there, and only its deletion leads out of that.
    all_are(("saving", None, None), found)
    assert {status for status, _, _ in found} == {"active"}


def test_a_change_past_the_end_of_an_import(imaged, held):
    found = []
    for change in CHANGES:
        image = imaged.create(x_held="yes")
        imaged.stage(image, b"bytes")
        with held(change, image):
            imaged.fetch(image, "glance-direct", ["fast"])
            imaged.imported(image, ["fast"])
        found.append(imaged.show(image)["status"])
    # As if it were staged, and nothing is.
    all_are("uploading", found)
    assert set(found) == {"active"}


def test_a_change_past_the_beginning_of_an_upload(imaged, held):
    found = []
    for change in CHANGES:
        image = imaged.create(x_held="yes")
        with held(change, image):
            upload = Slow(imaged, image)
        found.append(upload.end())
    # It is refused at its end.
    all_are(410, found)
    assert set(found) == {204}


def test_a_change_during_an_upload(imaged):
    image = imaged.create()
    upload = Slow(imaged, image)
    for change in CHANGES:
        change(imaged, image)
    assert upload.end() == 204
    facts = imaged.show(image)
    assert facts["status"] == "active"
    # Both are lost.
    all_are(None, [facts.get("x_new"), *(facts["tags"] or [None])])
    assert (facts["x_new"], facts["tags"]) == ("value", ["one"])


def test_a_server_that_decides_about_an_image(imaged, gate, slow):
    """A policy may name one that is asked; of images Glance cannot ask it."""
    image = imaged.active(b"bytes", "fast", x_held="yes")
    gate.opened.set()
    status = deactivate(slow, image)
    all_are(500, [status])
    assert status == 204
