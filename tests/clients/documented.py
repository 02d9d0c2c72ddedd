"""Runs the blocks of docs/clients.md, each section in an empty folder.

A block whose first line is a comment with a path is a file; a block of `sh` is run. The first section prepares each of the
others. The last block of a section must print the id of a user, and with a bad token the status and title of the problem; a
section without a program must only succeed.

Usage: documented.py FOLDER [SECTION], with the URL of the service in API. The empty folders are created in FOLDER; SECTION
is a part of the title of the section to run.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs/clients.md"
# The service of the suite does not listen on the port of the page.
PRINTED = "http://localhost:8000"
API = os.environ["API"]
USER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REFUSED = "401 Invalid token"
# Sections whose tools may be missing on a machine. The tools of the others are installed before.
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


class Failure(Exception):
    pass


def shell(folder: Path, token: str, commands: str) -> str:
    """Runs the commands up to the first that fails, and returns their output."""
    with folder.with_suffix(".log").open("a+") as log:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder,
            env=os.environ | {"TOKEN": token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
        log.write(done.stdout)
        if done.returncode != 0:
            log.seek(0)
            raise Failure(f"failed with code {done.returncode}:\n{commands}\n{log.read()}")
    return done.stdout


def run(section: Section, prepare: str, work: Path) -> None:
    started = time.monotonic()
    # The same folder in each run, so that Cargo finds its earlier builds of it.
    folder = work / re.sub(r"\W+", "-", section.title).strip("-").lower()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    token = shell(folder, "", prepare + 'printf %s "$TOKEN"')
    for language, block in section.blocks:
        if language == "sh":
            printed, last = shell(folder, token, block), block
        else:
            write(folder, block)
    if any(language != "sh" for language, _ in section.blocks):
        expect(section, printed, USER_ID.search(printed))
        printed = shell(folder, "not.a.token", last)
        expect(section, printed, REFUSED in printed)
    # It is large, and the next run starts with an empty folder.
    shutil.rmtree(folder)
    print(f"{time.monotonic() - started:4.0f} s  docs/clients.md, {section.title}", flush=True)


def expect(section: Section, printed: str, is_right: object) -> None:
    if not is_right:
        raise Failure(f"{section.title}: the last command printed {printed!r}")


def main() -> None:
    work, wanted = Path(sys.argv[1]), "".join(sys.argv[2:3])
    preparation, *others = sections(PAGE.read_text())
    prepare = "".join(block for _, block in preparation.blocks)
    chosen = []
    for section in others:
        lacking = [tool for tool, start in NEEDED.items() if section.title.startswith(start) and not shutil.which(tool)]
        if lacking:
            print(f"skipped  docs/clients.md, {section.title}, because there is no {' and no '.join(lacking)}", flush=True)
        elif wanted in section.title:
            chosen.append(section)
    if not chosen:
        sys.exit("error: no section was chosen")
    # Downloads take much of the time.
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = [pool.submit(run, section, prepare, work) for section in chosen]
        try:
            for done in as_completed(runs):
                done.result()
        except Failure as failure:
            pool.shutdown(cancel_futures=True)
            sys.exit(f"error: {failure}")


main()
