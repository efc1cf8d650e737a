"""The policies of the routes that Glance's API gets.

Without Glance's own routes: who prints samples imports this when options have been read already,
and those register more.
"""

from __future__ import annotations

from collections.abc import Iterator

from glance.policies import base
from oslo_policy import policy

RULES = [
    policy.DocumentedRuleDefault(
        name=name,
        check_str=base.ADMIN,
        scope_types=["project"],
        description=f"{word} meta definition resource types.",
        operations=[{"path": path, "method": method}],
    )
    for name, word, method, path in (
        ("add_metadef_resource_type", "Create", "POST", "/v2/metadefs/resource_types"),
        ("delete_metadef_resource_type", "Delete", "DELETE", "/v2/metadefs/resource_types/{name}"),
    )
]


def list_rules() -> Iterator[policy.RuleDefault]:
    """All of them, with their defaults."""
    yield from RULES
