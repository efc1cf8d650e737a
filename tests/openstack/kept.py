"""Lists of the tests that have passed: one that passes no more is a failure, whatever its reason.

A test that is skipped, renamed or not found fails nothing by itself.
"""

import re
from pathlib import Path


def lacking(name, passed, regex="."):
    """The tests of a list that match and are not among those that passed, each of them printed."""
    path = Path(__file__).with_name(name)
    kept = {one for one in path.read_text().split() if re.search(regex, one)}
    lost = sorted(kept - set(passed))
    for one in lost:
        print(f"has not passed: {one}")
    for one in sorted(set(passed) - kept):
        print(f"passes, and is not in {name}: {one}")
    print(f"{name}: {len(kept) - len(lost)} of {len(kept)}")
    return lost
