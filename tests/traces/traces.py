"""Exports the traces of `dev` to a real OpenTelemetry collector, and reads its output. Run it with tests/traces/run."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

CONFIGURATION = """
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  debug:
    verbosity: detailed
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [debug]
"""
TIMEOUT_SECONDS = 60
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, is_so):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"error: {what}: not within {TIMEOUT_SECONDS} s")
        time.sleep(0.05)


def accepts(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"error: {process.args[0]} does not end")


def spans(printed):
    """Returns the spans that the collector has printed, each as a dict of its fields and attributes."""
    found = []
    for text in re.split(r"^Span #\d+$", printed, flags=re.M)[1:]:
        text = re.split(r"^(?:ResourceSpans|ScopeSpans) #", text, flags=re.M)[0]
        span = dict(re.findall(r"^    ([A-Z][A-Za-z ]*?) *: (.*)$", text, re.M))
        span |= dict(re.findall(r"^     -> ([\w.]+): \w+\((.*)\)$", text, re.M))
        found.append(span)
    return found


def main():
    collector, program, folder = sys.argv[1], os.path.abspath(sys.argv[2]), pathlib.Path(sys.argv[3])
    port = free_port()
    (folder / "collector.yaml").write_text(CONFIGURATION.format(port=port))
    printed, log, output = (folder / name for name in ("collector.log", "program.log", "program.out"))
    running = []
    try:
        with printed.open("w") as stderr:
            collecting = subprocess.Popen(
                [collector, "--config", folder / "collector.yaml"], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )
        running.append(collecting)
        until("the collector listens", lambda: accepts(port))
        with log.open("w") as stderr, output.open("w") as stdout:
            serving = subprocess.Popen(
                [program, "dev"],
                cwd=folder,
                env={
                    "PORT": "0",
                    "TRUSTED_PROXIES": "127.0.0.1",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
                },
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        running.append(serving)
        until("the program serves", lambda: "\ncurl " in output.read_text())
        api = re.search(r"^API +(\S+)", output.read_text(), re.M)[1]
        token = re.search(r"^curl .*Bearer ([^']+)'", output.read_text(), re.M)[1]
        request = urllib.request.Request(
            f"{api}/protected",
            headers={"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
        with urllib.request.urlopen(request) as response:
            request_id = response.headers["x-request-id"]
        # The last spans are exported when the program ends, long before the next batch is due.
        code = stop(serving)
        if code:
            sys.exit(f"error: the program ended with {code}: {log.read_text()}")
        until("the collector has the request", lambda: "GET /protected" in printed.read_text())
        stop(collecting)
    finally:
        for process in running:
            process.kill()
            process.wait()

    text = printed.read_text()
    by_name = {span["Name"]: span for span in spans(text)}
    chain = ["GET /protected", "authenticate", "validate session", "POST /sessions/validate"]
    parent = PARENT
    for name in chain:
        span = by_name[name]
        if (span["Trace ID"], span["Parent ID"]) != (TRACE, parent):
            sys.exit(f"error: {name} has another trace or parent: {span}")
        parent = span["ID"]
    expected = {
        ("GET /protected", "Kind", "Server"),
        ("GET /protected", "http.route", "/protected"),
        ("GET /protected", "http.response.status_code", "200"),
        ("GET /protected", "request_id", request_id),
        ("POST /sessions/validate", "Kind", "Client"),
        ("GET /.well-known/jwks.json", "Kind", "Client"),
    }
    for name, field, value in sorted(expected):
        if by_name[name].get(field) != value:
            sys.exit(f"error: {name}: {field} is not {value}: {by_name[name]}")
    for needed in ("service.name: Str(poem-hanko)", "deployment.environment.name: Str(test)"):
        if needed not in text:
            sys.exit(f"error: {needed} is missing")
    for secret in [*token.split("."), "ada@example.com"]:
        if secret in text:
            sys.exit("error: a secret was exported")
    print(f"The collector received {len(by_name)} kinds of spans; those of the request form one trace.")


main()
