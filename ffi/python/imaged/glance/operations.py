"""What each operation of Glance's API is for, takes and answers.

Its router, schemas and policies do not say. Read in Glance 33's deserializers, controllers and
serializers. A line is: method, path, what it does, what it takes, status and what it answers,
errors beside 400, 401, 403 and 404. What is taken and answered is a name in `description.schemas`,
"binary", or nothing.
"""

from __future__ import annotations

from typing import NamedTuple


class Operation(NamedTuple):
    """What one operation is for, takes and answers."""

    summary: str
    takes: str = ""
    status: int = 200
    answers: str = ""
    errors: tuple[int, ...] = ()


CREATED, ACCEPTED, EMPTY = 201, 202, 204
NAMESPACES = "/metadefs/namespaces"
NAMESPACE = f"{NAMESPACES}/{{namespace}}"
OBJECT = f"{NAMESPACE}/objects/{{object_name}}"
PROPERTY = f"{NAMESPACE}/properties/{{property_name}}"
TAG = f"{NAMESPACE}/tags/{{tag_name}}"
TYPES = f"{NAMESPACE}/resource_types"
IMAGE = "/images/{image_id}"
MEMBERS = f"{IMAGE}/members"
MEMBER = f"{MEMBERS}/{{member_id}}"
# Of what stores the bytes of an image.
WRITING = (409, 410, 413, 415, 503)

OPERATIONS = {
    ("GET", "/images"): Operation("List images", answers="images"),
    ("POST", "/images"): Operation("Create an image", "image", CREATED, "image", (409, 413)),
    ("GET", IMAGE): Operation("Show an image", answers="image"),
    ("PATCH", IMAGE): Operation("Change an image", "patch", 200, "image", (409, 413, 415)),
    ("DELETE", IMAGE): Operation("Delete an image", "", EMPTY, "", (409,)),
    ("GET", f"{IMAGE}/file"): Operation("Read an image", "", 200, "binary", (416, 503)),
    ("PUT", f"{IMAGE}/file"): Operation("Store an image", "binary", EMPTY, "", WRITING),
    ("PUT", f"{IMAGE}/stage"): Operation("Stage an image", "binary", EMPTY, "", WRITING),
    ("POST", f"{IMAGE}/import"): Operation(
        "Import an image", "import", ACCEPTED, "", (405, *WRITING)
    ),
    ("GET", f"{IMAGE}/tasks"): Operation("List the tasks of an image", answers="image-tasks"),
    ("GET", f"{IMAGE}/locations"): Operation("List where an image is", answers="locations"),
    ("POST", f"{IMAGE}/locations"): Operation(
        "Tell where an image is", "location", ACCEPTED, "", (409,)
    ),
    ("POST", f"{IMAGE}/actions/deactivate"): Operation("Deactivate an image", status=EMPTY),
    ("POST", f"{IMAGE}/actions/reactivate"): Operation("Reactivate an image", status=EMPTY),
    ("PUT", f"{IMAGE}/tags/{{tag_value}}"): Operation("Tag an image", "", EMPTY, "", (413,)),
    ("DELETE", f"{IMAGE}/tags/{{tag_value}}"): Operation("Untag an image", status=EMPTY),
    ("GET", MEMBERS): Operation("List the members of an image", answers="members"),
    ("POST", MEMBERS): Operation("Add a member", "new-member", 200, "member", (409, 413)),
    ("GET", MEMBER): Operation("Show a member", answers="member"),
    ("PUT", MEMBER): Operation("Accept or reject an image", "member-status", 200, "member"),
    ("DELETE", MEMBER): Operation("Remove a member", status=EMPTY),
    ("DELETE", "/stores/{store_id}/{image_id}"): Operation(
        "Delete an image from one store", "", EMPTY, "", (409,)
    ),
    ("GET", "/info/import"): Operation("Show how images can be imported", answers="object"),
    ("GET", "/info/stores"): Operation("List stores", answers="stores"),
    ("GET", "/info/stores/detail"): Operation("List stores in detail", answers="stores"),
    ("GET", "/info/usage"): Operation("Show the usage of quotas", "", 200, "usage", (503,)),
    ("GET", "/tasks"): Operation("List tasks", answers="tasks"),
    ("POST", "/tasks"): Operation("Create a task", "task", CREATED, "task"),
    ("GET", "/tasks/{task_id}"): Operation("Show a task", answers="task"),
    # The one that it does not let through is the only answer.
    ("DELETE", "/tasks/{task_id}"): Operation("Refuse to delete a task", status=405),
    ("GET", "/cache"): Operation("List cached and queued images", answers="cache"),
    ("DELETE", "/cache"): Operation("Empty the cache or its queue", status=EMPTY),
    ("PUT", "/cache/{image_id}"): Operation("Queue an image for the cache", status=ACCEPTED),
    ("DELETE", "/cache/{image_id}"): Operation("Delete an image from the cache", status=EMPTY),
    ("GET", "/cache/nodes/{image_id}"): Operation("List who has an image cached", answers="object"),
    ("POST", "/cache/clean"): Operation("Clean the cache", "", 200, "object"),
    ("POST", "/cache/prune"): Operation("Prune the cache", "", 200, "object"),
    ("GET", "/metadefs/resource_types"): Operation("List resource types", answers="types"),
    ("POST", "/metadefs/resource_types"): Operation(
        "Create a resource type", "type", CREATED, "type", (409,)
    ),
    ("DELETE", "/metadefs/resource_types/{name}"): Operation(
        "Delete a resource type", "", EMPTY, "", (409,)
    ),
    ("GET", NAMESPACES): Operation("List namespaces", answers="namespaces"),
    ("POST", NAMESPACES): Operation(
        "Create a namespace", "namespace", CREATED, "namespace", (409,)
    ),
    ("GET", NAMESPACE): Operation("Show a namespace", answers="namespace"),
    ("PUT", NAMESPACE): Operation("Change a namespace", "namespace", 200, "namespace", (409,)),
    ("DELETE", NAMESPACE): Operation("Delete a namespace", status=EMPTY),
    ("GET", TYPES): Operation("List associated resource types", answers="associations"),
    ("POST", TYPES): Operation(
        "Associate a resource type", "association", CREATED, "association", (409,)
    ),
    ("DELETE", f"{TYPES}/{{resource_type}}"): Operation("End an association", status=EMPTY),
    ("GET", f"{NAMESPACE}/objects"): Operation("List objects", answers="objects"),
    ("POST", f"{NAMESPACE}/objects"): Operation(
        "Create an object", "metadef-object", CREATED, "metadef-object", (409,)
    ),
    ("DELETE", f"{NAMESPACE}/objects"): Operation("Delete all objects", status=EMPTY),
    ("GET", OBJECT): Operation("Show an object", answers="metadef-object"),
    ("PUT", OBJECT): Operation("Change an object", "metadef-object", 200, "metadef-object", (409,)),
    ("DELETE", OBJECT): Operation("Delete an object", status=EMPTY),
    ("GET", f"{NAMESPACE}/properties"): Operation("List properties", answers="properties"),
    ("POST", f"{NAMESPACE}/properties"): Operation(
        "Create a property", "property", CREATED, "property", (409,)
    ),
    ("DELETE", f"{NAMESPACE}/properties"): Operation("Delete all properties", status=EMPTY),
    ("GET", PROPERTY): Operation("Show a property", answers="property"),
    ("PUT", PROPERTY): Operation("Change a property", "property", 200, "property", (409,)),
    ("DELETE", PROPERTY): Operation("Delete a property", status=EMPTY),
    ("GET", f"{NAMESPACE}/tags"): Operation("List tags", answers="tags"),
    ("POST", f"{NAMESPACE}/tags"): Operation(
        "Create tags, instead of or beside those there are", "tags", CREATED, "tags", (409, 413)
    ),
    ("DELETE", f"{NAMESPACE}/tags"): Operation("Delete all tags", status=EMPTY),
    ("GET", TAG): Operation("Show a tag", answers="tag"),
    ("POST", TAG): Operation("Create a tag", "", CREATED, "tag", (409,)),
    ("PUT", TAG): Operation("Change a tag", "tag", 200, "tag", (409,)),
    ("DELETE", TAG): Operation("Delete a tag", status=EMPTY),
    **{
        ("GET", f"/schemas/{name}"): Operation(f"Show the schema of {name}", answers="object")
        for name in (
            *("image", "images", "member", "members", "task", "tasks"),
            *(
                f"metadefs/{kind}{plural}"
                for kind in ("namespace", "resource_type", "object", "tag")
                for plural in ("", "s")
            ),
            *("metadefs/property", "metadefs/properties"),
        )
    },
}

PAGE = ("limit:integer", "marker", "sort_key", "sort_dir:asc|desc")
# Of listings, what may be asked for; NAME, NAME:TYPE or NAME:VALUE|VALUE.
QUERIES = {
    ("GET", "/images"): (
        *PAGE,
        "sort",
        *("id", "name", "owner", "status", "tag", "checksum", "disk_format", "container_format"),
        "visibility:public|private|community|shared|all",
        "member_status:accepted|pending|rejected|all",
        *("size_min:integer", "size_max:integer", "min_disk:integer", "min_ram:integer"),
        *("protected:boolean", "os_hidden:boolean", "created_at", "updated_at"),
    ),
    ("GET", f"{IMAGE}/file"): ("prefer",),
    ("GET", "/info/usage"): ("project_id",),
    ("GET", "/tasks"): (*PAGE, "type", "status"),
    ("GET", NAMESPACES): (*PAGE, "visibility:public|private", "resource_types"),
    ("GET", NAMESPACE): ("resource_type",),
    ("GET", PROPERTY): ("resource_type",),
    ("GET", f"{NAMESPACE}/objects"): PAGE,
    ("GET", f"{NAMESPACE}/tags"): PAGE,
}
# Headers of a request.
HEADERS = {
    ("GET", f"{IMAGE}/file"): ("Range",),
    ("PUT", f"{IMAGE}/file"): ("x-image-meta-store", "x-openstack-image-size:integer"),
    ("POST", f"{NAMESPACE}/tags"): ("X-Openstack-Append:boolean",),
    ("DELETE", "/cache"): ("x-image-cache-clear-target:cache|queue",),
}
