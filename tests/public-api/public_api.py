"""Lists the public items of the crate, as rustdoc documents them, and compares the list with api.txt."""

import difflib
import html
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOC = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "doc" / "poem_hanko"
API = HERE / "api.txt"

# Crates whose types must not be in a public signature, so that replacing or upgrading them breaks no user.
HIDDEN_CRATES = ["reqwest", "redis", "quick_cache", "tracing_subscriber", "url", "aws_lc_rs", "jsonwebtoken", "papaya", "prometheus_client"]


def text(markup: str) -> str:
    plain = html.unescape(re.sub(r"<[^>]*>", "", markup))
    return re.sub(r"\s+", " ", plain).strip()


def items() -> list[str]:
    pages = re.findall(r'href="([^"]+\.html)"', (DOC / "all.html").read_text())
    return sorted(page for page in set(pages) if re.search(r"(^|/)(struct|enum|trait|fn|constant|type|macro)\.", page))


def declaration(page: str) -> str:
    found = re.search(r'<pre class="rust item-decl">(.*?)</pre>', page, re.S)
    return text(found.group(1)) if found else ""


def inherent(page: str) -> list[str]:
    found = re.search(r'<div id="implementations-list">(.*?)(?=<h2 id="(?:trait|synthetic|blanket)-implementations"|$)', page, re.S)
    if not found:
        return []
    return [text(header) for header in re.findall(r'<h4 class="code-header">(.*?)</h4>', found.group(1), re.S)]


def main() -> int:
    lines, exposed = [], []
    for item in items():
        page = (DOC / item).read_text()
        path = re.sub(r"(^|/)\w+\.(\w+)\.html$", r"\1\2", item).replace("/", "::")
        lines.append(f"{path}: {declaration(page)}")
        lines.extend(f"{path}: {method}" for method in inherent(page))
        own = re.sub(r'<h2 id="(?:trait|synthetic|blanket)-implementations".*', "", page, flags=re.S)
        signatures = "".join(re.findall(r'<pre class="rust item-decl">.*?</pre>|<h4 class="code-header">.*?</h4>', own, re.S))
        for name in HIDDEN_CRATES:
            if re.search(rf'title="\w+ {name}::', signatures):
                exposed.append(f"{path} has a type of {name} in its signature")
    if len(lines) < 100:
        print(f"error: only {len(lines)} public items were found in {DOC}", file=sys.stderr)
        return 1
    if exposed:
        print("\n".join(f"error: {line}" for line in exposed), file=sys.stderr)
        return 1
    found = "\n".join(lines) + "\n"
    if "--update" in sys.argv[1:]:
        API.write_text(found)
        return 0
    known = API.read_text()
    if found == known:
        print(f"{len(lines)} public items, as listed")
        return 0
    sys.stderr.writelines(difflib.unified_diff(known.splitlines(True), found.splitlines(True), "tests/public-api/api.txt", "the crate"))
    print("error: the public API has changed; if that is intended, run tests/public-api/run --update", file=sys.stderr)
    return 1


sys.exit(main())
