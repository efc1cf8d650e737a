"""What can be known of Cinder's driver without a Cinder: `ci/openstack` has a real one."""

import contextlib
import io
import threading
import types

import glanceclient.exc as answers
import pytest

from imaged import errors, records
from imaged.cinder import RBDDriver, choice, registration, sized
from imaged.cinder import driver as module
from imaged.records import Store

FSID = "9c15ca3a-5d46-491b-bcbb-02f613d04c87"
RAW = {"disk_format": "raw", "container_format": "bare"}


def store(id, **more):
    told = {"type": "rbd", "state": "up", "properties": {"fsid": FSID, "pool": "images"}}
    return Store(id=id, **{**told, **more})


# Which images the daemon makes


def test_a_raw_and_bare_image_of_a_plain_volume():
    choice.suited(RAW, encrypted=False)


@pytest.mark.parametrize(
    "image, encrypted, why",
    [
        ({**RAW, "disk_format": "qcow2"}, False, "qcow2"),
        ({**RAW, "container_format": "compressed"}, False, "compressed"),
        (RAW, True, "encrypted"),
    ],
)
def test_any_other_is_refused(image, encrypted, why):
    with pytest.raises(choice.Unsuited, match=why):
        choice.suited(image, encrypted=encrypted)


def chosen(stores, named):
    return tuple(one.id for one in choice.stores_for(stores, named, FSID))


def test_the_named_store_goes_before_the_default():
    stores = [store("a", default=True), store("b")]
    assert chosen(stores, "b") == ("b", "b")
    assert chosen(stores, None) == ("a", "a")


@pytest.mark.parametrize(
    "more", [{"type": "s3"}, {"type": "cinder"}, {"properties": {"fsid": "x"}}]
)
def test_a_store_elsewhere_is_reached_by_way_of_one_in_the_cluster(more):
    stores = [store("a", state="down"), store("b", read_only=True), store("c", **more)]
    assert chosen(stores, "c") == ("c", "b")


@pytest.mark.parametrize("stores", [[], [store("b", state="down")]])
def test_a_volume_that_no_store_reaches_is_refused(stores):
    stores = [store("a", type="s3", properties={}), *stores]
    with pytest.raises(choice.Unsuited, match=f"reaches the volume's cluster, {FSID}"):
        choice.stores_for(stores, "a", FSID)


@pytest.mark.parametrize(
    "more, why",
    [
        ({"type": "file"}, "store a: its type"),
        ({"type": "swift"}, "store a: its type"),
        ({"state": "down", "reason": "no mon"}, "down: no mon"),
        ({"read_only": True}, "may only be read"),
    ],
)
def test_a_store_that_takes_no_image_or_no_location_is_refused(more, why):
    with pytest.raises(choice.Unsuited, match=why):
        choice.stores_for([store("a", **more), store("b")], "a", FSID)


@pytest.mark.parametrize("named, why", [("b", "no store b; it has: a"), (None, "no default store")])
def test_a_store_that_is_not_there_is_refused(named, why):
    with pytest.raises(choice.Unsuited, match=why):
        choice.stores_for([store("a")], named, FSID)


# How a location is registered


class Glance:
    """Answers as told: to a registration, and then with states one after another."""

    def __init__(self, refusals=(), states=(("active", ()),)):
        self.refusals, self.states = list(refusals), list(states)
        self.asked = []

    def __call__(self, method, *arguments, **more):
        if method == "add_image_location":
            self.asked.append((*arguments, more))
            if self.refusals:
                raise self.refusals.pop(0)
            return None
        if method == "get_associated_image_tasks":
            # The state is read in two calls.
            self.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            if isinstance(self.state, Exception):
                raise self.state
            return {"tasks": [{"status": status} for status in self.state[1]]}
        return {"status": self.state[0]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registration.time, "sleep", lambda _: None)


def test_its_end_is_waited_for_and_nothing_but_digests_is_sent():
    states = [("queued", ["pending"]), ("importing", ["processing"]), ("active", ["success"])]
    glance = Glance(states=states)
    registration.register(glance, "x", "rbd://x", {})
    assert glance.asked == [("x", "rbd://x", {}, {"privileged_user": False})]
    assert len(glance.states) == 1


@pytest.mark.parametrize(
    "refusal", [answers.HTTPForbidden(), answers.HTTPNotFound(), answers.HTTPUnauthorized()]
)
def test_after_the_user_cinder_s_own_asks(refusal):
    glance = Glance([refusal])
    registration.register(glance, "x", "rbd://x", {})
    assert [asked[-1]["privileged_user"] for asked in glance.asked] == [False, True]


def test_a_refusal_to_both_names_the_remedy():
    glance = Glance([answers.HTTPForbidden(), answers.HTTPForbidden()])
    with pytest.raises(registration.Refused, match="needs the role service"):
        registration.register(glance, "x", "rbd://x", {})


@pytest.mark.parametrize("refusal", [answers.HTTPNotImplemented(), answers.HTTPBadRequest()])
def test_what_nobody_would_be_allowed_is_not_asked_twice(refusal):
    glance = Glance([refusal])
    with pytest.raises(registration.Refused):
        registration.register(glance, "x", "rbd://x", {})
    assert len(glance.asked) == 1


@pytest.mark.parametrize("refusal", [answers.HTTPConflict(), OSError("cut")])
def test_an_answer_that_was_lost_is_looked_for(refusal):
    registration.register(Glance([refusal]), "x", "rbd://x", {})


def test_a_task_that_failed():
    glance = Glance(states=[("importing", ["processing"]), ("queued", ["failure"])])
    with pytest.raises(registration.Refused, match="task failed"):
        registration.register(glance, "x", "rbd://x", {})


def test_an_image_that_was_deleted_meanwhile():
    with pytest.raises(registration.Refused, match="deleted meanwhile"):
        registration.register(Glance(states=[answers.HTTPNotFound()]), "x", "rbd://x", {})


def test_a_glance_that_is_gone_for_a_moment():
    states = [OSError("refused"), ("active", ["success"])]
    registration.register(Glance(states=states), "x", "rbd://x", {})


@pytest.mark.parametrize("state", [OSError("refused"), ("queued", ["processing"])])
def test_what_nobody_can_tell_is_no_refusal(monkeypatch, state):
    monkeypatch.setattr(registration, "SHORT", -1)
    with pytest.raises(registration.Unclear):
        registration.register(Glance(states=[state]), "x", "rbd://x", {})


# How an upload is sent


class Sender:
    """Cinder's client of Glance."""

    def __init__(self):
        self.sent, self.more = b"", None

    def call(self, context, method, image, body, **more):
        self.more = more
        while piece := body.read(1 << 20):
            assert len(piece) <= 1 << 20
            self.sent += piece


class Service:
    def __init__(self):
        self._client = Sender()

    def update(self, data, **more):
        return self._client.call(None, "upload", "x", data, **more)


CONTENT = bytes(range(256)) * 40_000


@pytest.mark.parametrize("more, store", [({}, "slow"), ({"store_id": "fast"}, "fast")])
def test_an_upload_has_its_size_and_store(more, store):
    service = Service()
    same = sized.with_size(service, "slow")
    same.update(io.BytesIO(CONTENT), **more)
    assert same._client._client.sent == CONTENT
    assert same._client._client.more == {"store_id": store, "image_size": len(CONTENT)}


class Broken(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 0:
            raise OSError("no more")
        return super().read(size)


class Short(io.BytesIO):
    def read(self, size=-1):
        return super().read(size) if self.tell() == 0 else b""


@pytest.mark.parametrize("source, error", [(Broken, OSError), (Short, EOFError)])
def test_an_upload_ends_with_the_source_s_error_and_without_threads(source, error):
    before = threading.active_count()
    with pytest.raises(error):
        sized.with_size(Service(), None).update(source(CONTENT))
    assert threading.active_count() == before


class Opened(io.BytesIO):
    """A volume that is open, as Cinder opens it."""

    rbd_conf: str


@pytest.mark.parametrize("content", [CONTENT, None])
def test_the_volume_is_closed_after_its_upload(tmp_path, content):
    source = Opened(content or CONTENT)
    conf = tmp_path / "brickrbd_x"
    conf.write_text("")
    source.rbd_conf = str(conf)
    service = Service()
    if content is None:
        service._client = None
    with contextlib.nullcontext() if content else pytest.raises(AttributeError):
        sized.with_size(service, None).update(source)
    assert source.closed
    assert not conf.exists()


def test_no_thread_is_left_when_nobody_reads():
    before = threading.active_count()
    with pytest.raises(OSError), sized.Ahead(io.BytesIO(bytes(1 << 28)), 1 << 28):
        raise OSError
    assert threading.active_count() == before


# The driver itself


class Daemon:
    """The daemon's client: each call is answered with the next thing that is told here."""

    def __init__(self, **told):
        self.told = {name: list(answers) for name, answers in told.items()}
        self.asked, self.more = [], []

    def __getattr__(self, name):
        def ask(*arguments, **more):
            self.asked.append((name, *arguments))
            self.more.append(more)
            answers = self.told[name]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


class Volume:
    id = "v"
    name = "volume-v"
    encryption_key_id = None
    volume_type = None


class Context:
    request_id = "req-1"
    project_id = "p"


COPY = records.Receipt("ceph", "x", "s3://x", 1, "sha512", hash_value="ab")
RECEIPT = records.Receipt("ceph", "x", "rbd://x", 1, "sha512", digest_job="j")


@pytest.fixture
def upload(monkeypatch):
    """Uploads the volume with this daemon and this Glance; whether it was streamed."""

    def upload(daemon, glance, **options):
        streamed = []
        driver = object.__new__(RBDDriver)
        driver.configuration = types.SimpleNamespace(
            enable_clone_optimization=True,
            imaged_store="ceph",
            imaged_send_digests=False,
            rbd_pool="volumes",
        )
        vars(driver.configuration).update(options)
        driver._imaged = daemon
        monkeypatch.setattr(module, "_glance", lambda context: glance)
        monkeypatch.setattr(module.time, "sleep", lambda _: None)
        monkeypatch.setattr(RBDDriver, "_get_fsid", lambda self: FSID)
        monkeypatch.setattr(
            module.rbd.RBDDriver, "copy_volume_to_image", lambda *_: streamed.append(True)
        )
        driver.copy_volume_to_image(Context(), Volume(), Service(), {"id": "x", **RAW})
        return bool(streamed)

    return upload


def test_its_name_is_that_of_cinder_s():
    assert RBDDriver.__name__ == module.rbd.RBDDriver.__name__
    names = [option.name for option in RBDDriver.get_driver_options()]
    assert {"enable_clone_optimization", "imaged_store", "imaged_socket"} <= set(names)
    assert "rbd_pool" in names


def test_a_clone_is_registered(upload):
    daemon, glance = Daemon(stores=[[store("ceph")]], copy=[RECEIPT]), Glance()
    assert not upload(daemon, glance)
    assert [asked[0] for asked in daemon.asked] == ["stores", "copy"]
    assert glance.asked[0][1] == "rbd://x"


def test_a_copy_elsewhere_is_registered(upload):
    stores = [store("ceph", type="s3", properties={}), store("near")]
    daemon, glance = Daemon(stores=[stores], copy=[COPY]), Glance()
    assert not upload(daemon, glance)
    assert daemon.asked[1:] == [("copy", "ceph", "x")]
    asked = {"rbd_volume": "volumes/volume-v", "from_store": "near", "project": "p"}
    assert asked.items() <= daemon.more[1].items()
    assert glance.asked[0][1] == "s3://x"


def test_a_copy_has_its_digest(upload):
    stores = [store("ceph", type="s3"), store("near")]
    glance = Glance()
    assert not upload(Daemon(stores=[stores], copy=[COPY]), glance, imaged_send_digests=True)
    assert glance.asked[0][2] == {"os_hash_algo": "sha512", "os_hash_value": "ab"}


def test_without_the_option_nobody_asks_the_daemon(upload):
    daemon = Daemon()
    assert upload(daemon, Glance(), enable_clone_optimization=False)
    assert daemon.asked == []


@pytest.mark.parametrize(
    "told",
    [
        {"stores": [errors.Unreachable("none")]},
        {"stores": [[store("ceph", type="file")]]},
        {"stores": [[store("ceph")]], "copy": [errors.BackendDenied("caps")]},
        {"stores": [[store("ceph")]], "copy": [ValueError("not thought of")]},
    ],
)
def test_what_the_daemon_does_not_make_is_streamed(upload, told):
    daemon = Daemon(**told)
    assert upload(daemon, Glance())
    assert "delete" not in [asked[0] for asked in daemon.asked]


def lost():
    error = errors.Lost("cut")
    error.in_doubt = True
    return error


@pytest.mark.parametrize(
    "gone", [[None], [errors.NotFound("gone")], [errors.Unreachable("none"), None]]
)
def test_an_image_in_doubt_is_taken_back(upload, gone):
    daemon = Daemon(stores=[[store("ceph")]], copy=[lost()], delete=gone)
    assert upload(daemon, Glance())
    assert [asked[0] for asked in daemon.asked].count("delete") == len(gone)


@pytest.mark.parametrize("receipt", [RECEIPT, COPY])
def test_an_image_that_glance_does_not_take_is_taken_back(upload, receipt):
    daemon = Daemon(stores=[[store("ceph")]], copy=[receipt], delete=[None])
    glance = Glance([answers.HTTPForbidden(), answers.HTTPForbidden()])
    assert upload(daemon, glance)
    assert daemon.asked[-1] == ("delete", "ceph", "x")


def test_a_clone_that_glance_may_have_is_kept(upload, monkeypatch):
    monkeypatch.setattr(registration, "SHORT", -1)
    daemon = Daemon(stores=[[store("ceph")]], copy=[RECEIPT])
    with pytest.raises(registration.Unclear):
        upload(daemon, Glance(states=[OSError("refused")]))
    assert daemon.asked[-1][0] == "copy"


def test_the_clone_of_an_earlier_try_is_made_again(upload):
    daemon = Daemon(stores=[[store("ceph")]], copy=[errors.Exists("x"), RECEIPT], delete=[None])
    glance = Glance(states=[("active", ())])
    glance.state = ("queued", ())
    assert not upload(daemon, glance)
    assert [asked[0] for asked in daemon.asked] == ["stores", "copy", "delete", "copy"]


def test_an_image_that_somebody_has_is_left_alone(upload):
    daemon = Daemon(stores=[[store("ceph")]], copy=[errors.Exists("x")])
    glance = Glance()
    glance.state = ("active", ())
    assert upload(daemon, glance)
    assert daemon.asked[-1][0] == "copy"


def test_images_are_told_from_volumes_by_their_names():
    image = "3d1f2f5e-5f0c-4c43-9a6c-0c8e2f1a7b11"
    assert module._is_image(image)
    assert not any(map(module._is_image, [f"volume-{image}", f"{image}.deleted", image.upper()]))


def test_digests_are_sent_once_they_are_known(upload):
    digest = "ab" * 64
    daemon = Daemon(
        stores=[[store("ceph")]],
        copy=[RECEIPT],
        job=[records.Job("j", "digest", "ceph", "x", state) for state in ("running", "done")],
        stat=[records.Stat(1, digests={"sha512": digest})],
    )
    glance = Glance()
    assert not upload(daemon, glance, imaged_send_digests=True)
    assert glance.asked[0][2] == {"os_hash_algo": "sha512", "os_hash_value": digest}
