"""A test that passes no more is a failure, also where nothing has failed."""

from pathlib import Path

import kept
import pytest


@pytest.mark.parametrize("name", ["tempest.txt", "functional.txt", "interop.txt", "volumes.txt"])
def test_a_test_that_is_not_there_any_more_is_missed(capsys, name):
    listed = Path(kept.__file__).with_name(name).read_text().split()
    assert len(listed) > 20 and len(set(listed)) == len(listed)
    assert kept.lacking(name, listed) == []
    assert kept.lacking(name, listed[1:]) == [listed[0]]
    assert f"has not passed: {listed[0]}" in capsys.readouterr().out
    # Of those that were asked for, and one that is new is said and fails nothing.
    assert kept.lacking(name, [], "no such name") == []
    assert kept.lacking(name, [*listed, "another"]) == []
    assert f"is not in {name}: another" in capsys.readouterr().out
