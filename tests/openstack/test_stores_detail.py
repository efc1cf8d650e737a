"""What Glance tells an administrator of its stores: of a served store as of one that is its own."""

from cloud import Glance

# What is told of a store of each type.
PROPERTIES = {
    "cinder": {"volume_type", "use_multipath"},
    "file": {"data_dir", "chunk_size", "thin_provisioning"},
    "http": set(),
    "rbd": {"chunk_size", "pool", "thin_provisioning", "fsid"},
    "s3": {
        "s3_store_large_object_size",
        "s3_store_large_object_chunk_size",
        "s3_store_thread_pools",
    },
    "swift": {"container", "large_object_size", "large_object_chunk_size"},
}


def test_stores_detail(glance, rig):
    told = {
        one["id"]: one for one in glance.ask("GET", "/info/stores/detail", 200).json()["stores"]
    }
    assert told.keys() == {*rig["stores"], "web"}
    assert [name for name, one in told.items() if "default" in one] == [rig["default_store"]]
    assert told["web"]["read-only"] == "true"
    for name, one in told.items():
        properties = one["properties"]
        assert properties.keys() == PROPERTIES[one["type"]], name
        facts = rig["stores"].get(name)
        if not facts:
            continue
        assert one["type"] == facts["type"]
        assert one["description"]
        if one["type"] == "rbd":
            assert (properties["pool"], properties["fsid"]) == (facts["pool"], rig.fsid(name))
        if one["type"] == "file":
            assert properties["data_dir"] == facts["path"]
        if one["type"] == "swift":
            assert properties["container"] == facts["container"]
        if one["type"] == "cinder":
            assert properties["volume_type"] == facts["volume_type"]
    # Those of a type are configured alike.
    for served, plain in (("ceph", "plain-ceph"), ("cloud", "plain-cloud"), ("fast", "plain-file")):
        own = {"pool": None, "data_dir": None}
        assert told[served]["properties"] | own == told[plain]["properties"] | own
    weights = [one["weight"] for name, one in sorted(told.items())]
    assert weights == sorted(weights, reverse=True)


def test_who_is_told(glance, rig):
    for name in ("demo", "manager", "reader"):
        user = Glance(rig, name)
        user.ask("GET", "/info/stores/detail", 403)
        listed = user.ask("GET", "/info/stores", 200).json()["stores"]
        assert {one["id"] for one in listed} == {*rig["stores"], "web"}
        assert not any("properties" in one for one in listed)
