"""Print, as JSON, the raw values that oslo.config's own parser finds in a file.

The shape is {section: {option: [value, ...]}}; a file that it refuses gives {"error": message}.

    python oslo.py FILE
"""

import json
import sys

from oslo_config import cfg, iniparser


def raw(path):
    sections = {}
    try:
        cfg.ConfigParser(path, sections).parse()
    except iniparser.ParseError as error:
        return {"error": str(error)}
    return sections


if __name__ == "__main__":
    json.dump(raw(sys.argv[1]), sys.stdout)
    print()
