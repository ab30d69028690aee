"""Fetch the pip wheel from PyPI into a folder, with nothing but the standard library, and print its path.

For a Python without ensurepip (Debian without python3-venv). The file's SHA-256 is compared with the index's.
"""

import hashlib
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = "https://pypi.org/pypi/pip/json"


def main(folder: Path) -> int:
    try:
        with urllib.request.urlopen(INDEX, timeout=60) as answer:
            wheel = next(file for file in json.load(answer)["urls"] if file["packagetype"] == "bdist_wheel")
        with urllib.request.urlopen(urllib.parse.urljoin(INDEX, wheel["url"]), timeout=120) as answer:
            content = answer.read()
    except (urllib.error.URLError, StopIteration, KeyError) as error:
        print(f"setup: cannot fetch pip from {INDEX}: {error}. Install python3-venv instead.", file=sys.stderr)
        return 2
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        print("setup: the pip that PyPI sent is damaged. Try again.", file=sys.stderr)
        return 2
    named = folder / wheel["filename"]  # pip takes a wheel only under its own name
    named.write_bytes(content)
    print(named)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
