#!/usr/bin/env python3
"""Writes the queries of the Grafana dashboard as recording rules, which promtool can check, and checks that every metric in
a query is documented. `--update` writes the file; without it, a difference is an error."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
RULES = ROOT / "deploy/prometheus/dashboard-rules.yaml"
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
METRIC = re.compile(r"\b(?:hanko|http|process|log|poem_hanko)_[a-z0-9_]+")


def queries():
    """The record name and the expression of each query, with Grafana's variables replaced."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            title = re.sub(r"[^a-z0-9]+", "_", panel["title"].lower()).strip("_")
            expression = target["expr"]
            expression = expression.replace("$__rate_interval", "5m").replace('job=~"$job"', 'job=~".+"')
            if "$" in expression:
                sys.exit(f"{panel['title']}: unknown variable in {expression}")
            yield f"dashboard:{title}:{target['refId'].lower()}", expression


def rules():
    lines = [
        "# The queries of deploy/grafana/dashboard.json, so that promtool checks them. Written by tests/metrics/run --update.",
        "groups:",
        "  - name: poem-hanko-dashboard",
        "    rules:",
    ]
    for record, expression in queries():
        lines += [f"      - record: {record}", f"        expr: {json.dumps(expression)}"]
    return "\n".join(lines) + "\n"


def documented():
    """The series of every documented metric."""
    names = set()
    for line in (ROOT / "docs/operating.md").read_text().splitlines():
        row = re.match(r"\| `([a-z0-9_]+)` \| (counter|gauge|histogram) \|", line)
        if row:
            name, kind = row.groups()
            names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def main():
    known = documented()
    text = "\n".join(line for line in ALERTS.read_text().splitlines() if not re.match(r"\s+(description|summary):", line))
    for name in METRIC.findall(text) + [name for _, query in queries() for name in METRIC.findall(query)]:
        if name not in known:
            sys.exit(f"{name} is used by an alert or the dashboard, and is not in docs/operating.md")
    if sys.argv[1:] == ["--update"]:
        RULES.write_text(rules())
    elif RULES.read_text() != rules():
        sys.exit("dashboard-rules.yaml differs from the dashboard: run tests/metrics/run --update")


main()
