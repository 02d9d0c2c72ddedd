"""Runs the blocks of code in the pages.

Each block has a rule: that of its language, or that of the comment in the line above it.

    rust                            is compiled by `mod pages` of src/lib.rs
    sh                              is run, in the order of the page, and must succeed
    json, toml, yaml                is parsed
    <!-- output -->                 is the output of the commands above; `…` stands for any text
    <!-- run: with dev -->          the same as `sh`, while `cargo run -- dev` runs
    <!-- run: until PATTERN -->     runs until the page ends; the next block waits until a line matches
    <!-- run: until PATTERN, and that line -->  the same, and the line is a command that must succeed
    <!-- run: until port NUMBER --> runs until the page ends; the next block waits until it listens
    <!-- run: as .env -->           is a configuration in which the program finds no error
    <!-- program: COMMAND -->       is a new program together with the next `rust` block; its COMMAND must succeed
    <!-- dependencies -->           is a part of a Cargo.toml; Cargo must find all dependencies and features
    <!-- file: PATH -->             is written to that file
    <!-- part of PATH -->           is quoted from that file, except for lines with `…`
    <!-- not-run: REASON -->        is not run; the list of these is printed
    <!-- new folder -->             (anywhere) from here on, the folder is a new one and not the checkout

Usage: docs.py FOLDER [PAGE...]. All files are written to FOLDER.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAM = TARGET / "debug/poem-hanko"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted(ROOT.glob("docs/*.md"))]
# These have nothing to run, but their links are checked.
WITHOUT_BLOCKS = [ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
# tests/clients/run runs this page.
RUN_ELSEWHERE = {ROOT / "docs/clients.md": "tests/clients/run"}
README_LINES = 150
DEV = "cargo run -- dev"
DEV_PORT = 8000
# How many seconds a command may take, and how many a server may take to start, builds included.
PATIENCE = 600


class Wrong(Exception):
    """An error in a page."""


class Block(NamedTuple):
    line: int
    language: str
    rule: str
    text: str
    in_new_folder: bool


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text().splitlines()
    opened, rule, in_new_folder = None, "", False
    for number, line in enumerate(lines, 1):
        if opened is None and line.startswith("```"):
            opened = number
        elif opened is not None and line == "```":
            text = "".join(part + "\n" for part in lines[opened : number - 1])
            found.append(Block(opened, lines[opened - 1][3:], rule, text, in_new_folder))
            opened, rule = None, ""
        elif opened is None:
            comment = re.fullmatch(r"<!-- (.*) -->", line)
            rule = comment[1] if comment else ""
            if rule == "new folder":
                in_new_folder, rule = True, ""
    if opened is not None:
        raise Wrong(f"line {opened}: the block has no end")
    return found


def names_read_by_the_program() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def environment() -> dict[str, str]:
    """The variables of this process, without those that the program reads."""
    read = names_read_by_the_program() | {"RUST_LOG", "RUST_BACKTRACE"}
    starts = ("HANKO_", "JWKS_", "JWT_", "OTEL_")
    kept = {name: value for name, value in os.environ.items() if name not in read and not name.startswith(starts)}
    return kept | {"CARGO_TARGET_DIR": str(TARGET), "CARGO_TERM_COLOR": "never"}


def copy_of_the_checkout(folder: Path) -> None:
    """Copies the files with their times, so that Cargo builds nothing again."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    # By name, as the pages print it: some servers listen on one of the addresses of `localhost` only.
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass
class Runner:
    """Runs the blocks of one page."""

    page: Path
    work: Path
    checkout: Path
    printed: str = ""
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def folder(self, block: Block) -> Path:
        if not block.in_new_folder:
            return self.checkout
        folder = self.work / "folders" / self.page.stem
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def shell(self, commands: str, folder: Path, variables: dict[str, str] | None = None) -> str:
        """Runs commands up to the first that fails, and returns their output."""
        # A file, because a process that a command leaves running would keep a pipe open.
        log = self.work / "log"
        with log.open("wb") as output:
            done = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=folder, env=environment() | (variables or {}), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code = done.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(done.pid, signal.SIGKILL)
                raise Wrong(f"does not end: {commands}") from None
        printed = log.read_text(errors="replace")
        if code != 0:
            raise Wrong(f"failed with code {code}:\n{commands}{printed}")
        return printed

    def start(self, commands: str, pattern: str, folder: Path) -> str:
        """Starts commands that do not end, and waits for a port or a line of output. Returns that line."""
        port = re.fullmatch(r"port (\d+)", pattern)
        needed = int(port[1]) if port else DEV_PORT if DEV in commands else None
        if needed and not is_free(needed):
            raise Wrong(f"port {needed}, which the page prints, is in use on this machine")
        log = self.work / f"log-{len(self.running)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        end = time.monotonic() + PATIENCE
        while True:
            has_ended = process.poll() is not None
            printed = log.read_text(errors="replace")
            if port:
                if accepts(needed):
                    return ""
            else:
                # Only whole lines.
                for line in printed.split("\n")[:-1]:
                    if re.search(pattern, line):
                        return line
            if has_ended or time.monotonic() > end:
                raise Wrong(f"did not get to {pattern!r}:\n{commands}{printed}")
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.running:
            try:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
            # The rest of the group, such as the program that `cargo run` started, has received the signal too.
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    os.killpg(process.pid, 0)
                except ProcessLookupError:
                    break
                time.sleep(0.1)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        self.running.clear()

    def run(self, block: Block, following: list[Block]) -> str:
        """Applies the rule of the block, and returns a word for what was done."""
        rule, language, text = block.rule, block.language, block.text
        folder = self.folder(block)
        if rule == "output":
            self.compare(text)
            if language == "json":
                json.loads(text)
            return "compared"
        if rule.startswith("part of "):
            self.compare_with_file(text, rule.removeprefix("part of "))
            if language == "yaml":
                yaml.safe_load(text)
            return "compared with the file"
        if rule.startswith("file: "):
            (folder / rule.removeprefix("file: ")).write_text(text)
            return "written"
        if rule.startswith("program: "):
            self.program(text, following, rule.removeprefix("program: "))
            return "built and run"
        if rule == "dependencies":
            self.new_crate(text, "fn main() {}\n", "dependencies")
            return "resolved"
        if rule == "run: as .env":
            self.configuration(text)
            return "checked"
        if rule == "run: with dev":
            if not self.running:
                self.start(DEV, "^curl ", self.checkout)
            self.printed = self.shell(text, folder)
            return "run"
        if until := re.fullmatch(r"run: until (.+?)(, and that line)?", rule):
            line = self.start(text, until[1], folder)
            if until[2]:
                self.printed = self.shell(line + "\n", folder)
            return "started"
        if rule:
            raise Wrong(f"there is no rule {rule!r}")
        if language == "sh":
            self.printed = self.shell(text, folder)
            return "run"
        if language == "yaml":
            yaml.safe_load(text)
            return "parsed"
        if language == "toml":
            tomllib.loads(text)
            return "parsed"
        if language == "json":
            json.loads(text)
            return "parsed"
        if language.split(",")[0] == "rust":
            if "ignore" in language:
                raise Wrong("it is ignored without a reason: <!-- not-run: REASON -->")
            return "compiled by `cargo test --doc`"
        raise Wrong(f"a block of {language or 'no language'} needs a rule")

    def compare(self, expected: str) -> None:
        pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
        if not re.fullmatch(pattern, self.printed.strip(), re.DOTALL):
            raise Wrong(f"the commands above printed:\n{self.printed}and not:\n{expected}")

    def compare_with_file(self, text: str, path: str) -> None:
        rest = iter([line.strip() for line in (ROOT / path).read_text().splitlines()])
        for line in map(str.strip, text.splitlines()):
            if "…" not in line and line not in rest:
                raise Wrong(f"{path} has no line {line!r} there")

    def configuration(self, text: str) -> None:
        folder = self.work / "configuration"
        folder.mkdir(exist_ok=True)
        (folder / ".env").write_text(text)
        # No request leaves this machine: nothing listens on the port of the proxy. So the program exits with 1.
        commands = f"{shlex.quote(str(PROGRAM))} check || test $? = 1\n"
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        printed = self.shell(commands, folder, nowhere)
        if "is not a variable of this program" in printed:
            raise Wrong(f"the program does not know a variable:\n{printed}")

    def new_crate(self, dependencies: str, program: str, name: str) -> Path:
        """Creates a crate in an empty folder. It uses this checkout as the package, and nothing is downloaded."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "src").mkdir(parents=True)
        profile = tomllib.loads((ROOT / "Cargo.toml").read_text())["profile"]["dev"]["debug"]
        (folder / "Cargo.toml").write_text(
            '[package]\nname = "printed"\nversion = "0.1.0"\nedition = "2024"\n\n'
            f"{dependencies}\n[patch.crates-io]\npoem-hanko = {{ path = {json.dumps(str(ROOT))} }}\n\n"
            f'[profile.dev]\ndebug = "{profile}"\n\n[workspace]\n'
        )
        (folder / "src/main.rs").write_text(program)
        shutil.copy(ROOT / "Cargo.lock", folder)
        self.shell("cargo metadata --offline --quiet --format-version 1 >/dev/null\n", folder)
        return folder

    def program(self, dependencies: str, following: list[Block], command: str) -> None:
        program = next((block for block in following if block.language.startswith("rust")), None)
        if program is None:
            raise Wrong("no block of Rust follows")
        folder = self.new_crate(dependencies, program.text, "program")
        self.shell("cargo build --offline --quiet\n", folder)
        printed = self.shell(f"{shlex.quote(str(TARGET / 'debug/printed'))} {command}\n", folder)
        for path in re.findall(r'path = "([^"]+)"', program.text):
            if path not in printed:
                raise Wrong(f"{command} prints no {path}:\n{printed}")


def without_blocks(text: str) -> str:
    """Returns the text with an empty line for each line of a block."""
    return re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as the usual hosts generate them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        kept = "".join(
            letter for letter in text if letter in "-_ " or unicodedata.category(letter)[0] in "LN"
        ).replace(" ", "-")  # fmt: skip
        number, name = 0, kept
        while name in found:
            number += 1
            name = f"{kept}-{number}"
        found.add(name)
    return found


def links_of(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text()))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def wrong_links(page: Path) -> list[str]:
    wrong = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"the link {link} leads nowhere")
        elif anchor and anchor not in anchors(target):
            wrong.append(f"the link {link} leads to no heading")
    return wrong


def pages_without_a_link() -> list[str]:
    """Finds pages that cannot be reached by links from README.md."""
    found, next_pages = {README}, [README]
    while next_pages:
        page = next_pages.pop()
        for link in links_of(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in found:
                found.add(target)
                next_pages.append(target)
    return [f"no link leads to {page.relative_to(ROOT)}" for page in PAGES + WITHOUT_BLOCKS if page not in found]


def wrong_paths(page: Path) -> list[str]:
    """Finds named paths of this repository that do not exist."""
    text = without_blocks(page.read_text())
    named = re.findall(r"`((?:src|tests|benches|deploy|docs|examples|openapi)/[\w./*{},-]*)", text)
    return [f"there is no {path}" for path in sorted(set(named)) if not any(ROOT.glob(path.rstrip("/").rstrip("*") + "*"))]


def wrong_figures(page: Path) -> list[str]:
    """Finds tables of figures in chapters that name no program that measures them."""
    wrong = []
    for chapter in re.split(r"^(?=#{1,2} )", without_blocks(page.read_text()), flags=re.MULTILINE):
        if not re.search(r"^\|.*-:\|", chapter, re.MULTILINE) or "<!-- computed -->" in chapter:
            continue
        measures = re.findall(r"`(benches/[\w-]+/run|tests/[\w-]+/run|cargo bench --bench \w+)[^`]*`", chapter)
        if not measures:
            wrong.append(f"the table of figures in {chapter.splitlines()[0]!r} names no bench")
    return wrong


def pages_compiled() -> set[Path]:
    included = re.findall(r'include_str!\("\.\./([^"]+\.md)"\)', (ROOT / "src/lib.rs").read_text())
    return {ROOT / path for path in included}


def readme_in_the_package() -> list[str]:
    listed = subprocess.run(
        ["cargo", "package", "--list", "--allow-dirty", "--offline"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    wrong = []
    for link in links_of(README):
        path = link.partition("#")[0]
        if path and path not in listed and not any(file.startswith(path.rstrip("/") + "/") for file in listed):
            wrong.append(f"{path} is not in the package")
    return wrong


def checks_of(page: Path) -> list[str]:
    """Finds the errors of a page that can be found without running anything."""
    wrong = wrong_links(page) + wrong_paths(page) + wrong_figures(page)
    has_rust = any(block.language.split(",")[0] == "rust" for block in blocks_of(page))
    if has_rust and page not in RUN_ELSEWHERE and page not in pages_compiled():
        wrong.append("its blocks of Rust are not compiled: include it in `mod pages` of src/lib.rs")
    if page == README:
        lines = len(page.read_text().splitlines())
        if lines > README_LINES:
            wrong.append(f"it has {lines} lines, which is more than {README_LINES}")
        wrong += readme_in_the_package() + pages_without_a_link()
    return wrong


def main() -> None:
    work = Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    pages = [ROOT / name for name in sys.argv[2:]] or PAGES + WITHOUT_BLOCKS
    shutil.rmtree(work / "folders", ignore_errors=True)
    checkout = work / "checkout"
    copy_of_the_checkout(checkout)
    errors: list[str] = []
    not_run: list[str] = []
    for page in pages:
        name = page.relative_to(ROOT)
        started, done = time.monotonic(), {}
        errors += [f"{name}: {wrong}" for wrong in checks_of(page)]
        if page in RUN_ELSEWHERE:
            print(f"   -    {name}: {RUN_ELSEWHERE[page]} runs it", flush=True)
            continue
        runner = Runner(page, work, checkout)
        blocks = blocks_of(page)
        try:
            for index, block in enumerate(blocks):
                if reason := re.fullmatch(r"not-run: (.+)", block.rule):
                    not_run.append(f"{name}:{block.line}: {reason[1]}")
                    continue
                try:
                    what = runner.run(block, blocks[index + 1 :])
                    done[what] = done.get(what, 0) + 1
                except (Wrong, yaml.YAMLError, ValueError, OSError) as wrong:
                    errors.append(f"{name}:{block.line}: {wrong}")
        finally:
            runner.stop()
        text = ", ".join(f"{count} {what}" for what, count in done.items()) or "no block to run"
        print(f"{time.monotonic() - started:4.0f} s  {name}: {text}", flush=True)
    print("Not run:", *(not_run or ["nothing"]), sep="\n  ")
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


main()
