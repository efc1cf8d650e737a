"""Where Glance's database layer decides against a policy that allows, and a patch for upstream.

Both are judged by the same tests: Glance as it is, where these are expected to fail, and a copy of it
with the patch.
"""

import shutil
import subprocess
from pathlib import Path

import glance
import pytest
from changes import Fault, deactivate, delete, put_tag, reactivate, rename
from cloud import Glance

pytestmark = pytest.mark.imaged
PATCH = next((Path(__file__).parent / "upstream").glob("0001-*.patch"))
# A manager of any project may do these with an image that he sees.
POLICY = "".join(
    f'"{rule}": "role:manager"\n'
    for rule in ("modify_image", "delete_image", "deactivate", "reactivate", "upload_image")
)


def upload(user, image):
    return user.upload(image, b"bytes", "fast", expect=None).status_code


DONE = {rename: 200, put_tag: 204, deactivate: 204, reactivate: 204, delete: 204, upload: 204}


@pytest.fixture(scope="module")
def patched(rig):
    """A folder with a copy of Glance that has the patch."""
    folder = rig.folder / "glance-patched"
    there = folder / "glance"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        Path(glance.__file__).parent, there, ignore=shutil.ignore_patterns("tests", "__pycache__")
    )
    with PATCH.open() as patch:
        subprocess.run(
            ["patch", "--strip", "1", "--fuzz", "0", "--directory", folder],
            stdin=patch,
            check=True,
            timeout=60,
        )
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["as it is", "patched"])
def url(rig, request):
    """Of a Glance with the policies."""
    rig.use("imaged")
    python = request.getfixturevalue("patched") if request.param == "patched" else None
    with rig.beside(policy=POLICY, python=python) as url:
        yield url


def prepared(imaged, project, operation):
    """An image of this project, which all see."""
    more = {"owner": project, "visibility": "community"}
    made = imaged.create(**more) if operation is upload else imaged.active(b"bytes", "fast", **more)
    if operation is reactivate:
        assert deactivate(imaged, made) == 204
    return made


def test_what_a_policy_allows_is_done(imaged, rig, url, request):
    if request.node.callspec.params["url"] == "as it is":
        reason = "the database layer decides again"
        request.applymarker(pytest.mark.xfail(raises=Fault, strict=True, reason=reason))
    log = Path(rig["log"]) / "glance-beside.log"
    user, owner = Glance(rig, "other-manager", url), Glance(rig, "demo").project
    found, again = {}, {}
    for operation in DONE:
        seen = log.stat().st_size
        made = prepared(imaged, owner, operation)
        found[operation] = operation(user, made)
        if b"modify image user did not own" in log.read_bytes()[seen:]:
            again[operation] = found[operation]
    refused = {operation: 404 if operation is delete else 403 for operation in DONE}
    if again == refused:
        raise Fault("all are refused")
    assert found == DONE


def test_what_a_policy_refuses_is_not_done(imaged, rig, url):
    """Also to the owner: it is the policy alone that decides."""
    user = Glance(rig, "demo", url)
    for operation in DONE:
        made = prepared(imaged, user.project, operation)
        before = imaged.show(made)
        assert operation(user, made) == 403, operation
        assert imaged.show(made) == before
