"""The field's words instead of private ones: in names, comments, docstrings, texts and pages.

`WORDS` maps what must not appear to what to write instead. A word of the table that is right in one place is listed in
`ALLOWED`, with the reason. Not searched: quotations (the seed, recordings of the kernel, the promises page).
"""

import io
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "docs", "benchmarks", "examples", "scenarios", "scripts")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
QUOTATIONS = ("tests/golden/", "docs/seed.txt", "docs/promises.", "tests/test_words.py")

WORDS = {
    r"anew": "again",
    r"nobody|somebody|anybody|whoever|whomever": "the actor: the caller, no process, a host",
    r"everybody": "all hosts, all clients",
    r"(is|are) another one now|is another one\b(?! of)": "has changed",
    r"(has|have) gone\b": "is gone, was removed",
    r"of (ours|theirs|his|hers)": "ibbond's, the lab's, the peer's",
    r"hears?|heard|overhears": "on_*, handle, receives, is notified",
    r"told|tells? of": "notified, reported, known",
    r"news": "event, notification",
    r"wish(es|ed|ful)?": "request, configuration, desired state",
    r"tapped": "captured, mirrored",
    r"is_train|trains? of segments|(tcp|udp|a|the) trains? (of|that|is|stands)": "GSO packet",
    r"greatest|the least": "maximum, minimum",
    r"(MOST|LEAST|GREATEST|LARGEST|LONGEST|SMALLEST)_[A-Z_]+|[a-z_]+_(greatest|least)": "MAX_*, MIN_*",
    r"patience": "timeout",
    r"under way": "in flight, in progress, pending",
    r"neighbours?": "neighbor",
    r"behaviour": "behavior",
    r"Linux'": "Linux's",
    r"for ever|for good\b": "forever, permanently",
    r"afresh|begin_anew|distrust": "again, resync, invalidate",
    r"Malfunctions|Outfit|Seats?|Wish|Happened|NoRoom|stand_ins|become_able": "see docs/glossary.md",
    r"(it|that|this|which|what) is no (?!longer|more|other|one|match|way)\w+": "is not a",
    r"himself|herself": "itself, the caller",
    r"(netdevice|core/|linux/|h, )neighbor\.[ch]": "neighbour.c, neighbour.h: the kernel's files",
    r"How often( each)?\.": "How many times",
    r"nothing came|it did not hold": "nothing arrived, was not kept",
    r"do(es)? not exist any more": "no longer exists",
    r"door(?!bell)": "listener, socket, entry point",
}
ALLOWED = {
    (r"neighbours?", "ipoib_neighbour"): "a patch of 2007, also a value of --without",
    (r"neighbours?", r"get_neighbours|neighbour\.[ch]|struct neighbour"): "names of pyroute2 and of the kernel",
    (r"anew", "began_anew"): "a JSON key of an example",
    (
        r"nobody|somebody|anybody|whoever|whomever",
        r"NOBODY|su nobody|as nobody|nobody:",
    ): "the user",
}


def pages() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *FOLDERS, *PAGES], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split() if not name.startswith(QUOTATIONS)]
    return [ROOT / name for name in names if name.endswith((".py", ".md", ".toml", ".sh")) and (ROOT / name).is_file()]


def passages(path: Path) -> list[tuple[int, str]]:
    """The lines of a page; of a Python file its comments and texts, and the names of the line they stand on."""
    text = path.read_text()
    if path.suffix != ".py":
        lines = enumerate(text.splitlines(), 1)
        return [(number, line) for number, line in lines if not line.startswith("  | `")]  # the changelog's old names
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, tokenize.NAME):
            found += [(token.start[0] + at, line) for at, line in enumerate(token.string.splitlines())]
    return found


@cache
def places() -> dict[str, str]:
    """Each distinct passage, and where it stands first: most names stand in many places."""
    found: dict[str, str] = {}
    for path in pages():
        for number, line in passages(path):
            found.setdefault(line, f"{path.relative_to(ROOT)}:{number}")
    return found


def is_allowed(word: str, line: str) -> bool:
    return any(rule == word and re.search(where, line) for rule, where in ALLOWED)


@pytest.mark.parametrize("word", WORDS)
def test_private_words_stay_out(word: str) -> None:
    pattern = re.compile(rf"(?<![A-Za-z])({word})(?![a-z])")
    found = [
        f"{where}: {line.strip()[:100]}"
        for line, where in places().items()
        if pattern.search(line) and not is_allowed(word, line)
    ]
    assert not found, f"write instead: {WORDS[word]}\n" + "\n".join(found)


def test_the_words_are_found() -> None:
    """The table would pass if it found nothing at all."""
    lines = ("it is no option", "somebody else", "news_for", "MOST_BYTES", "a neighbour", "hears of it", "the greatest")
    patterns = [re.compile(rf"(?<![A-Za-z])({word})(?![a-z])") for word in WORDS]
    assert all(any(pattern.search(line) for pattern in patterns) for line in lines)
