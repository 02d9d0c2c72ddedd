"""Runs what docs/clients.md says, as printed there, each section in an empty folder.

A block whose first line is a comment with a path is a file; a block of `sh` is run. The first section prepares each of the
others. The last block of a section must print the id of a user, and with a bad token the status and title of the problem; the
section without a program must only succeed.

Usage: documented.py FOLDER [SECTION], with the URL of the service in API. The folder is for the empty folders; SECTION is a
part of a title, to run only that.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs/clients.md"
# The service of the suite does not listen on the port of the page.
PRINTED = "http://localhost:8000"
API = os.environ["API"]
USER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REFUSED = "401 Invalid session token"
# Sections whose tools a machine may lack. Those of the others are installed before.
NEEDED = {"go": "Go: ", "javac": "Java: ", "mvn": "Java: "}


class Section(NamedTuple):
    title: str
    blocks: list[tuple[str, str]]


def sections(page: str) -> list[Section]:
    found = []
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title = part.partition("\n")[0]
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        found.append(Section(title, [(language, text.replace(PRINTED, API)) for language, text in blocks]))
    return found


def write(folder: Path, block: str) -> None:
    path = re.match(r"(?://|#) (\S+)\n", block)
    assert path, f"the first line of a program says its path: {block!r}"
    file = folder / path[1]
    file.parent.mkdir(exist_ok=True)
    file.write_text(block)


def shell(folder: Path, commands: str, log: Path) -> str:
    """Runs the commands as a person does who stops at the first that fails; returns what they print."""
    with log.open("a") as errors:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
        )  # fmt: skip
        errors.write(done.stdout)
    if done.returncode != 0:
        sys.exit(f"error: failed with code {done.returncode}:\n{commands}\n{log.read_text()}")
    return done.stdout


def run(section: Section, prepare: str, work: Path) -> None:
    # The same folder in each run, so that what Cargo has built there before is found again.
    folder = work / re.sub(r"\W+", "-", section.title).strip("-").lower()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    os.environ["TOKEN"] = shell(folder, prepare + 'printf %s "$TOKEN"', log)
    for language, block in section.blocks:
        if language == "sh":
            printed, last = shell(folder, block, log), block
        else:
            write(folder, block)
    if any(language != "sh" for language, _ in section.blocks):
        expect(printed, USER_ID.search(printed), section)
        os.environ["TOKEN"] = "not.a.token"
        printed = shell(folder, last, log)
        expect(printed, REFUSED in printed, section)
    # It takes much room, and the next run begins with an empty folder.
    shutil.rmtree(folder)


def expect(printed: str, is_right: object, section: Section) -> None:
    if not is_right:
        sys.exit(f"error: {section.title}: the last command printed {printed!r}")


def main() -> None:
    work, wanted = Path(sys.argv[1]), "".join(sys.argv[2:3])
    preparation, *others = sections(PAGE.read_text())
    prepare = "".join(block for _, block in preparation.blocks)
    ran = 0
    for section in others:
        if wanted not in section.title:
            continue
        lacking = [tool for tool, start in NEEDED.items() if section.title.startswith(start) and not shutil.which(tool)]
        if lacking:
            print(f"skipped  docs/clients.md, {section.title}, because there is no {' and no '.join(lacking)}")
            continue
        started = time.monotonic()
        run(section, prepare, work)
        print(f"{time.monotonic() - started:4.0f} s  docs/clients.md, {section.title}", flush=True)
        ran += 1
    assert ran > 0, "no section was run"


main()
