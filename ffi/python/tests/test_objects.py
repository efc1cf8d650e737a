"""Glance's stores of types s3, swift, cinder and http through the daemon."""

from __future__ import annotations

import io
import sys
import types
from types import SimpleNamespace

import pytest
from glance.api.v2 import discovery
from glance.context import RequestContext
from glance_store import exceptions, multi_backend
from glance_store import location as locations
from servers import END, Scripted
from stores import CONF, get_store, new

import imaged
from imaged.glance import store

S3 = """
s3_store_host = https://s3.example.org:9000
s3_store_bucket = images
s3_store_large_object_size = 7
s3_store_thread_pools = 3
"""
SWIFT = """
swift_store_auth_address = http://keystone.example.org:5000/v3/
swift_store_large_object_size = 7
swift_store_large_object_chunk_size = 2
"""
KEYS = {
    "s3": "s3_store_access_key = A\ns3_store_secret_key = hidden\n",
    "swift": "swift_store_user = service:gl/ance+\nswift_store_key = hidden\n",
    "http": "",
    "cinder": "cinder_store_user_name = glance\ncinder_store_password = hidden\n",
}
OPTIONS = {"s3": S3, "swift": SWIFT, "http": "", "cinder": ""}
NOBODY = "imaged_socket = /nobody/is/here\n"
DONE = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    END,
    b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
)


def shown(glance, kind, more):
    """What Glance shows of a store."""
    glance.start(f"other:{kind}", f"[other]\n{OPTIONS[kind]}{KEYS[kind]}{more}")
    one = get_store("other")
    request = types.SimpleNamespace(context=RequestContext(roles=["admin"], is_admin=True))
    return (
        one.url_prefix,
        one.get_store_location_class(),
        one.get_schemes(),
        sorted(multi_backend.get_known_schemes_for_multi_store()),
        discovery.InfoController().get_stores(request),
        discovery.InfoController().get_stores_detail(request),
    )


@pytest.mark.parametrize("kind", ["s3", "swift", "http", "cinder"])
def test_what_glance_shows_of_a_store_stays(glance, kind):
    theirs, ours = shown(glance, kind, "imaged_socket =\n"), shown(glance, kind, NOBODY)
    assert ours[2:] == theirs[2:]
    assert issubclass(ours[1], theirs[1])
    assert ours[0] == theirs[0]
    assert theirs[0].startswith(kind)


@pytest.mark.parametrize("kind", ["s3", "swift"])
def test_neither_keys_nor_the_clients_of_a_store_need_be_there(glance, kind, monkeypatch):
    for name in ("boto3", "botocore", "swiftclient"):
        monkeypatch.setitem(sys.modules, name, None)
    glance.start(f"other:{kind}", f"[other]\n{OPTIONS[kind]}{NOBODY}")
    one = get_store("other")
    assert isinstance(one, store.Served) and one.url_prefix.startswith(kind)
    with pytest.raises(exceptions.RemoteServiceUnavailable):
        glance.add(io.BytesIO(b"x"), backend="other")


@pytest.mark.parametrize(
    ("kind", "options", "prefix", "uri"),
    [
        ("s3", "s3_store_host = http://s3:1/", "s3://s3:1/images", "s3://s3:1/images/ID"),
        ("s3", "s3_store_host = s3:1", "s3://s3:1/images", "s3://s3:1/images/ID"),
        (
            "swift",
            "swift_store_config_file = CONF\ndefault_swift_reference = two",
            "swift+config://two/glance/",
            "swift+config://two/glance/ID",
        ),
        # What it refers to the daemon has to know, and nobody else.
        (
            "swift",
            "swift_store_config_file = nowhere\ndefault_swift_reference = one",
            "swift+config://one/glance/",
            "swift+config://one/glance/ID",
        ),
        (
            "swift",
            "swift_store_container = box",
            "swift+http://keystone.example.org:5000/v3/box/",
            "swift+http://service:***@keystone.example.org:5000/v3/box/ID",
        ),
        (
            "swift",
            "swift_store_multi_tenant = true",
            None,
            "swift+https://swift.example.org/v1/AUTH_a/glance_ID/ID",
        ),
        ("http", "", "http", "https://example.org/ID?a=b"),
    ],
)
def test_a_location_is_asked_for_as_it_is(glance, monkeypatch, kind, options, prefix, uri):
    references = glance.dir / "swift.conf"
    login = "user = service:glance\nkey = k\nauth_address = http://keystone/v3"
    references.write_text(f"[two]\n{login}\n")
    options = options.replace("CONF", str(references))
    text = f"[other]\n{OPTIONS[kind]}{NOBODY}{options}\n"
    # The last of two lines counts.
    glance.start(f"other:{kind}", text)
    assert get_store("other").url_prefix == prefix
    asked = []

    def stat(self, name, id=None, *, at=None, request_id=None):
        asked.append((name, at))
        return imaged.Stat(size=7, location=at, digests={})

    monkeypatch.setattr(imaged.Client, "stat", stat)
    uri = uri.replace("ID", new())
    assert multi_backend.get_size_from_uri_and_backend(uri, "other") == 7
    assert asked == [("other", uri)]
    at = locations.get_location_from_uri_and_backend(uri, "other", conf=CONF)
    assert at.get_store_uri() == uri


def test_what_is_only_read_is_neither_added_to_nor_deleted_from(glance):
    glance.start("web:http", f"[web]\n{NOBODY}")
    with pytest.raises(exceptions.StoreAddDisabled):
        glance.add(io.BytesIO(b"x"), backend="web")
    # Glance passes this one over, and deletes the image.
    with pytest.raises(exceptions.StoreDeleteNotSupported):
        multi_backend.delete("http://example.org/image", "web")


@pytest.mark.parametrize(
    ("kind", "more", "goes"),
    [
        ("swift", "swift_store_multi_tenant = true\n", True),
        ("swift", "swift_store_multi_tenant = false\n", False),
        ("s3", "", False),
    ],
)
def test_the_callers_token_goes_along_where_images_lie_in_their_owners_accounts(
    glance, monkeypatch, kind, more, goes
):
    glance.start(f"other:{kind}", f"[other]\n{OPTIONS[kind]}{NOBODY}{more}")
    tokens = []

    def put(self, store, id, image, *, token=None, **more):
        tokens.append(token)
        raise imaged.Full("no room")

    known = imaged.Store(id="other", type=kind, state="up", properties={})
    monkeypatch.setattr(imaged.Client, "stores", lambda self: [known])
    monkeypatch.setattr(imaged.Client, "put", put)
    context = RequestContext(auth_token="token-1")
    with pytest.raises(exceptions.StorageFull):
        multi_backend.add_with_multihash(
            CONF, new(), io.BytesIO(b"x"), 1, "other", "sha512", context=context
        )
    assert tokens == ["token-1" if goes else None]


def test_a_key_is_in_a_location_where_the_driver_in_glance_has_it(glance, monkeypatch):
    glance.start(
        "other:swift",
        f"[other]\n{NOBODY}swift_store_auth_address = http://keystone.example.org:5000/v3\n"
        "swift_store_user = service:glance\nswift_store_key = p@ss/w+rd%\n",
    )
    told = "swift+http://service%3Aglance:***@keystone.example.org:5000/v3/glance/one"
    receipt = imaged.Receipt(
        store="other",
        id="one",
        location=told,
        size=1,
        checksum="a",
        hash_algo="sha512",
        hash_value="b",
        stored_bytes=1,
    )
    known = imaged.Store(id="other", type="swift", state="up", properties={})
    monkeypatch.setattr(imaged.Client, "stores", lambda self: [known])
    monkeypatch.setattr(imaged.Client, "put", lambda self, *args, **more: receipt)
    location = glance.add(io.BytesIO(b"x"), backend="other")[0]
    assert location == told.replace("***", "p%40ss/w%2Brd%25")
    assert location.startswith(get_store("other").url_prefix)


@pytest.mark.parametrize(
    ("multi_tenant", "asked"),
    [
        (
            True,
            {"public": True, "read": ("a", "b"), "write": ("c",), "request_id": "req-members"},
        ),
        (False, None),
    ],
)
def test_members_reach_an_image_where_images_have_owners(glance, monkeypatch, multi_tenant, asked):
    glance.start("other:swift", f"[other]\n{NOBODY}swift_store_multi_tenant = {multi_tenant}\n")
    shared = []

    def share(self, store, *, at, **access):
        shared.append((store, at, access))

    monkeypatch.setattr(imaged.Client, "share", share)
    at = f"swift+https://swift.example.org/v1/AUTH_a/glance_{new()}/one"

    def members(**more):
        multi_backend.set_acls_for_multi_store(at, "other", **more)

    context = SimpleNamespace(request_id="req-members")
    members(public=True, read_tenants=("a", "b"), write_tenants=("c",), context=context)
    assert shared == ([("other", at, asked)] if asked else [])
    # Nobody, and no request that has an id.
    shared.clear()
    members()
    nobody = {"public": False, "read": (), "write": (), "request_id": None}
    assert shared == ([("other", at, nobody)] if asked else [])


def test_a_token_is_a_header_and_no_more_than_that(tmp_path):
    path = str(tmp_path / "socket")
    server = Scripted(path, DONE)
    client = imaged.Client(path)
    with pytest.raises(imaged.Error):
        client.put("other", "one", iter([b"x"]), token="token-1")
    assert b"\r\nX-Auth-Token: token-1\r\n" in server.heads[0]
    for token in ("a\r\nHost: b", "a b", "é", "a\n"):
        with pytest.raises(imaged.Invalid) as refused:
            client.put("other", "one", b"x", token=token)
        assert token not in str(refused.value)
