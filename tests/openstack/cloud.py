"""The rig as tests see it: Glance's API, what its stores hold, and the script that runs it."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import openstack
import rados
import rbd
import requests

MODES = ("in-process", "imaged")
# The size of a piece that a client sends.
PIECE = 1 << 16
# That of a piece that is read from Ceph.
PART = 16 << 20


def until(what, so, seconds=60):
    """Waits until `so()` is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = so()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.1)


def digest(data, algorithm):
    return hashlib.new(algorithm, data).hexdigest()


class Rig:
    """What `ci/openstack up` made."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.read()
        self._cluster = None

    def read(self):
        self.facts = json.loads((self.folder / "rig.json").read_text())

    def __getitem__(self, name):
        return self.facts[name]

    def _script(self, *arguments):
        done = subprocess.run(
            [self["script"], *arguments], capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.read()

    def use(self, mode):
        """Has Glance use the daemon, or not."""
        if self["mode"] != mode:
            self._script("glance", mode, self["dir"])

    @contextlib.contextmanager
    def extended(self):
        """Glance with the routes of imaged.glance.api, and quotas from Keystone."""
        os.environ["GLANCE_API"] = "extended"
        try:
            self._script("glance", self["mode"], self["dir"])
            yield
        finally:
            del os.environ["GLANCE_API"]
            self._script("glance", self["mode"], self["dir"])

    def kill_daemon(self):
        self._script("daemon", "kill", self["dir"])

    def start_daemon(self):
        self._script("daemon", "start", self["dir"])

    def ensure_daemon(self):
        if not Path(f"/proc/{self['pids']['imaged']}").exists():
            self.start_daemon()

    @contextlib.contextmanager
    def configured(self, change):
        """The daemon with another text of its configuration, which `change` makes of the old."""
        conf, log = Path(self["imaged_conf"]), Path(self["log"]) / "imaged.out"
        before = conf.read_text()

        def use(text):
            seen = log.stat().st_size
            conf.write_text(text)
            os.kill(self["pids"]["imaged"], signal.SIGHUP)
            until("the daemon to read it", lambda: b"configuration" in log.read_bytes()[seen:])
            # Another word is said of one that is not taken.
            assert b"configuration reloaded" in log.read_bytes()[seen:]

        use(change(before))
        try:
            yield
        finally:
            use(before)

    def kill_glance(self):
        """Its workers end with their master, or are ended; then it starts again."""
        os.kill(self["pids"]["glance"], signal.SIGKILL)
        self._script("glance", self["mode"], self["dir"])

    @contextlib.contextmanager
    def beside(self, conf="", policy="", python=None):
        """Another Glance beside the rig's, with its database and stores; its URL.

        It has these lines of configuration besides, this policy file, and modules of the folder
        `python` before those installed.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        own = Path(self["glance_conf"]).parent
        folder, log = own / "beside", Path(self["log"]) / "glance-beside.log"
        folder.mkdir(exist_ok=True)
        log.touch()
        shutil.chown(log, self["glance_user"])
        (folder / "policy.yaml").write_text(policy)
        lines = [
            Path(self["glance_conf"]).read_text(),
            f"[DEFAULT]\nlog_file = {log}\nworker_self_reference_url = http://{address}",
            f"[oslo_policy]\npolicy_file = {folder}/policy.yaml",
            # The cache is the other's.
            "[paste_deploy]\nflavor = keystone",
            conf,
        ]
        (folder / "glance-api.conf").write_text("\n".join(lines))
        changes = {
            "http-socket": f"http-socket = {address}",
            # Fewer start sooner.
            "processes": "processes = 1",
            "threads": "threads = 8",
        }
        ini = [
            changes.get(line.partition(" =")[0], line).replace(
                f"OS_GLANCE_CONFIG_DIR={own}", f"OS_GLANCE_CONFIG_DIR={folder}"
            )
            for line in (own / "uwsgi.ini").read_text().splitlines()
        ]
        # A worker that is told to end just after it has started does not always. uWSGI kills it after
        # so many seconds, by itself after a minute: as long as is waited for it here.
        ini.append("worker-reload-mercy = 5")
        if python:
            ini.append(f"pythonpath = {python}")
        (folder / "uwsgi.ini").write_text("\n".join(ini) + "\n")
        with (Path(self["log"]) / "glance-beside.out").open("w") as out:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("uwsgi"), "--ini", folder / "uwsgi.ini"],
                # With this `ci/openstack down` finds it.
                env=os.environ | {"CI_OPENSTACK": f"{self['dir']}:beside"},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            until("the Glance beside to answer", lambda: _answers(f"http://{address}", process))
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def daemon_down(self):
        self.kill_daemon()
        try:
            yield
        finally:
            self.start_daemon()

    def imaged(self, *arguments):
        """What a command of the daemon's prints."""
        done = subprocess.run(
            [self["program"], *arguments, "--socket", self["socket"], "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def login(self, name):
        """The environment of a command that logs in as this user."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("OS_")},
            "OS_AUTH_URL": self["keystone"],
            "OS_REGION_NAME": self["region"],
            **{f"OS_{fact.upper()}": value for fact, value in self["users"][name].items()},
        }

    def sql(self, database, command):
        socket = f"{self['dir']}/database/socket"
        subprocess.run(
            ["mariadb", "--no-defaults", "--socket", socket, "--execute", command, database],
            timeout=60,
            check=True,
        )

    def journal(self):
        """How many transfers the daemon has not brought to an end."""
        text = subprocess.run(
            ["curl", "-sf", "--unix-socket", self["socket"], "http://imaged/metrics"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        return int(text.split("\nimaged_journal_entries ")[1].split()[0])

    def until_free(self, image):
        """Waits until the daemon has cleared up what uploads of this id have left.

        Until then the id is taken, also when nothing can be seen in the store any more.
        """
        folder = Path(self["state"]) / "journal"

        def free():
            for path in folder.iterdir():
                # One may be done just now.
                with contextlib.suppress(FileNotFoundError):
                    if image in path.read_text():
                        return False
            return True

        until(f"the id {image} to be free", free)

    def cluster(self, store):
        if self._cluster is None:
            self._cluster = rados.Rados(conffile=self["stores"][store]["conf"], rados_id="admin")
            self._cluster.connect()
        return self._cluster

    def digest(self, store, image):
        """The SHA-512 of what a store in Ceph has."""
        found = hashlib.sha512()
        with self.pool(store) as ioctx, rbd.Image(ioctx, image, "snap", read_only=True) as there:
            for at in range(0, there.size(), PART):
                found.update(there.read(at, min(PART, there.size() - at)))
        return found.hexdigest()

    def fsid(self, store):
        return self.cluster(store).get_fsid()

    @contextlib.contextmanager
    def pool(self, store):
        with self.cluster(store).open_ioctx(self["stores"][store]["pool"]) as ioctx:
            yield ioctx

    def held(self, store):
        """Everything that is in a store, by name, with its size: asked of the backend itself."""
        facts = self["stores"][store]
        if facts["type"] == "file":
            return {path.name: path.stat().st_size for path in Path(facts["path"]).iterdir()}
        if facts["type"] == "s3":
            return _in_bucket(facts)
        if facts["type"] == "swift":
            return self._in_container(facts)
        if facts["type"] == "cinder":
            return self._in_volumes(facts)
        found, of_images = {}, None
        with self.pool(store) as ioctx:
            for name in rbd.RBD().list(ioctx):
                # The volume of an image in a store of type cinder, which has its own account.
                if name.startswith("volume-") and self["mode"] == "imaged":
                    of_images = of_images or {
                        f"volume-{one.id}" for one in self._image_volumes(self["stores"]["volumes"])
                    }
                    if name in of_images:
                        continue
                # What Cinder leaves of a volume that it had cloned, when both are gone.
                if name.endswith(".deleted"):
                    continue
                # One may go away just now.
                with (
                    contextlib.suppress(rbd.ImageNotFound),
                    rbd.Image(ioctx, name, read_only=True) as image,
                ):
                    found[name] = image.size()
            for entry in rbd.RBD().trash_list(ioctx):
                found[f"trash/{entry['name']}"] = None
        return found

    def _image_volumes(self, facts):
        """The volumes of images of a store."""
        connected = _service(facts["auth"], facts["user"], facts["key"], self["region"])
        listed = connected.block_storage.volumes(all_projects=True)
        return [
            one
            for one in listed
            if (one.name or "").startswith("image-") and one.volume_type == facts["volume_type"]
        ]

    def _in_volumes(self, facts):
        """Images in volumes, of any project; a volume that is no image yet is by its own name."""
        found = {}
        for one in self._image_volumes(facts):
            known = one.metadata.get("glance_image_id")
            size = int(one.metadata.get("image_size", one.size << 30))
            if known and "imaged_upload" not in one.metadata:
                found[known] = size
            else:
                found[one.name] = None
        return found

    def _in_container(self, facts):
        """Images with the sizes of all their segments; a segment of no image is by its own name."""
        connected = _service(facts["auth"], facts["user"], facts["key"], self["region"])
        swift = connected.object_store
        listed = swift.get(f"/{facts['container']}?format=json")
        if listed.status_code in (204, 404):
            return {}
        found = {}
        # In the order of their names: an image, and after it its segments.
        for one in listed.json():
            image = one["name"][:36]
            name = image if image in found else one["name"]
            found[name] = found.get(name, 0) + one["bytes"]
        return found


def _answers(url, process):
    assert process.poll() is None, "it does not start; see glance-beside.out and .log"
    session = requests.Session()
    session.trust_env = False
    with contextlib.suppress(requests.ConnectionError):
        return session.get(f"{url}/versions", timeout=60).ok
    return False


# Made once each, for every test looks into every store.
@functools.cache
def _service(auth, user, key, region):
    return openstack.connect(
        auth_url=auth,
        username=user,
        password=key,
        project_name="service",
        user_domain_id="default",
        project_domain_id="default",
        region_name=region,
    )


@functools.cache
def _s3(url, access_key, secret_key):
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )


def _in_bucket(facts):
    """Objects with their sizes, and uploads that have not ended."""
    s3 = _s3(facts["url"], facts["access_key"], facts["secret_key"])
    objects = s3.list_objects_v2(Bucket=facts["bucket"]).get("Contents", [])
    uploads = s3.list_multipart_uploads(Bucket=facts["bucket"]).get("Uploads", [])
    found = {one["Key"]: one["Size"] for one in objects}
    return {**found, **{f"upload/{one['Key']}": None for one in uploads}}


class Glance:
    """Its API as one user sees it; of another Glance than the rig's, with its URL."""

    def __init__(self, rig, user="admin", url=None):
        self.rig = rig
        self.url = url or rig["glance"]
        self.made = []
        # Proxies of the surroundings have nothing to do here.
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-Auth-Token"] = self._token(user)

    def _token(self, user):
        facts = self.rig["users"][user]
        domain = {"id": "default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": facts["username"],
                            "password": facts["password"],
                            "domain": domain,
                        }
                    },
                },
                "scope": {"project": {"name": facts["project_name"], "domain": domain}},
            }
        }
        url = f"{self.rig['keystone']}/auth/tokens"
        answer = self.session.post(url, json=body, timeout=60)
        assert answer.status_code == 201, answer.text
        self.project = answer.json()["token"]["project"]["id"]
        return answer.headers["X-Subject-Token"]

    def ask(self, method, path, expect=None, **more):
        """One request; fails unless the status is one of those expected."""
        more.setdefault("timeout", 120)
        answer = self.session.request(method, f"{self.url}/v2{path}", **more)
        if expect is not None:
            expected = expect if isinstance(expect, tuple) else (expect,)
            assert answer.status_code in expected, f"{method} {path}: {answer} {answer.text[:500]}"
        return answer

    def create(self, disk_format="raw", container_format="bare", **properties):
        """A queued image; its id."""
        body = {
            "name": "test",
            "disk_format": disk_format,
            "container_format": container_format,
            **properties,
        }
        image = self.ask("POST", "/images", 201, json=body).json()["id"]
        self.made.append(image)
        return image

    def upload(self, image, body, store=None, size=None, expect=204, **more):
        headers = {"Content-Type": "application/octet-stream"}
        if store:
            headers["X-Image-Meta-Store"] = store
        if size is not None:
            headers["x-openstack-image-size"] = str(size)
        pieces = body
        if isinstance(body, bytes):
            # Chunked, as all clients do it.
            pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
        path = f"/images/{image}/file"
        return self.ask("PUT", path, expect, data=pieces, headers=headers, **more)

    def active(self, body, store=None, size=None, **properties):
        """An image with these bytes; its id."""
        image = self.create(**properties)
        self.upload(image, body, store, size)
        assert self.show(image)["status"] == "active"
        return image

    def stage(self, image, body, expect=204):
        headers = {"Content-Type": "application/octet-stream"}
        return self.ask("PUT", f"/images/{image}/stage", expect, data=body, headers=headers)

    def fetch(self, image, method, stores, all_must_succeed=True, expect=202, **more):
        """Begins an import."""
        body = {
            "method": {"name": method, **more},
            "stores": stores,
            "all_stores_must_succeed": all_must_succeed,
        }
        return self.ask("POST", f"/images/{image}/import", expect, json=body)

    def imported(self, image, stores):
        """Waits until an import into these stores has ended well."""

        def ended():
            facts = self.show(image)
            assert not facts.get("os_glance_failed_import"), facts
            there = set(facts.get("stores", "").split(","))
            # The task writes into the database a little longer than the image shows.
            return (
                facts["status"] == "active"
                and there >= set(stores)
                and all(status == "success" for status in self.tasks(image))
            )

        until(f"the import of {image} to {stores}", ended)

    def tasks(self, image):
        """The states of its imports; none if there is no such image."""
        answer = self.ask("GET", f"/images/{image}/tasks", (200, 404))
        tasks = answer.json()["tasks"] if answer.status_code == 200 else []
        return [task["status"] for task in tasks]

    def settled(self, image):
        """Waits until no import of it is under way: it would write what is deleted next."""
        ends = {"success", "failure"}
        until(f"the imports of {image} to end", lambda: ends.issuperset(self.tasks(image)))

    def show(self, image):
        return self.ask("GET", f"/images/{image}", 200).json()

    def await_queued(self, image):
        """Waits until an upload that failed has left the image as it was."""
        until("the image to be queued again", lambda: self.show(image)["status"] == "queued")

    def download(self, image, expect=200, **headers):
        return self.ask("GET", f"/images/{image}/file", expect, headers=headers)

    def download_digest(self, image):
        """The SHA-512 of what is downloaded, which may be large."""
        found = hashlib.sha512()
        with self.ask("GET", f"/images/{image}/file", 200, stream=True) as answer:
            for piece in answer.iter_content(1 << 20):
                found.update(piece)
        return found.hexdigest()

    def delete(self, image, expect=204):
        return self.ask("DELETE", f"/images/{image}", expect)

    def images(self):
        # Else other projects' community images are not among them.
        found, path = [], "/images?limit=100&visibility=all"
        while path:
            page = self.ask("GET", path, 200).json()
            found += page["images"]
            path = page.get("next", "").removeprefix("/v2")
        return found

    def cached(self):
        return self.ask("GET", "/cache", 200).json()

    def delete_made(self):
        self._delete(self.made)
        self.made = []

    def delete_all(self):
        self._delete([image["id"] for image in self.images()])

    def _delete(self, images):
        for image in images:
            self.settled(image)
            # A daemon that was killed while it read an image in Ceph holds it for a while longer.
            until(
                f"nobody to hold {image}",
                lambda image=image: self.delete(image, (204, 404, 409)).status_code != 409,
            )


def check_accounts(rig, glance):
    """Every store holds what Glance lists, of the same size, and nothing else."""
    # What the daemon has still to clear up goes first.
    until("the daemon's journal to be empty", lambda: rig.journal() == 0)
    # What Glance has not got as far as forgetting goes too.
    images = [image for image in glance.images() if image["status"] != "queued"]
    for store in rig["stores"]:
        listed = {}
        for image in images:
            for location in image["locations"]:
                if location["metadata"]["store"] == store:
                    listed[image["id"]] = image["size"]
        assert rig.held(store) == listed, store
        assert {one["id"]: one["size"] for one in rig.imaged("list", store)["images"]} == listed
    leftovers = os.listdir(rig["staging"])
    assert leftovers == [], f"left over in staging: {leftovers}"
