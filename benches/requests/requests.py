"""Counts what each kind of request costs the server. Started by `run`."""

import argparse
import contextlib
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from machine import TARGET, Failed, Hanko, Process, description, free_port, main, metrics, progress, table  # noqa: E402

PROGRAM = TARGET / "release/poem-hanko-system-malloc"
COUNTER = TARGET / "release/count.so"
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
CACHED, UNCACHED, LOGGING = {}, {"TOKEN_CACHE_CAPACITY": "0"}, {"ACCESS_LOG": "true"}
OTHER_COOKIES = [f"other-{number}=0123456789abcdef0123456789" for number in range(9)]


def kinds(hanko):
    """The kinds of request: a name, the settings of the server, the request, and the status of its response."""
    token = hanko.token
    forged = token[:-8] + ("A" * 8 if token[-8:] != "A" * 8 else "B" * 8)
    cookies = "; ".join([*OTHER_COOKIES[:5], f"hanko={token}", *OTHER_COOKIES[5:]])
    bearer, cookie = f"Authorization: Bearer {token}", f"Cookie: {cookies}"
    webhook = hanko.webhook
    content = ["Content-Type: application/json", f"Content-Length: {len(webhook.encode())}"]
    return [
        ("public", CACHED, request("GET /"), 200),
        ("public, with a Bearer token", CACHED, request("GET /", bearer), 200),
        ("protected by Bearer", CACHED, request("GET /protected", bearer), 200),
        ("public, with the cookie among ten", CACHED, request("GET /", cookie), 200),
        ("protected by the cookie among ten", CACHED, request("GET /protected", cookie), 200),
        ("protected by Bearer, not cached", UNCACHED, request("GET /protected", bearer), 200),
        ("protected by Bearer, with access log", LOGGING, request("GET /protected", bearer), 200),
        ("401, no credentials", CACHED, request("GET /protected"), 401),
        ("401, forged", CACHED, request("GET /protected", f"Authorization: Bearer {forged}"), 401),
        ("404", CACHED, request("GET /nowhere"), 404),
        ("/livez", CACHED, request("GET /livez"), 200),
        ("webhook", CACHED, request("POST /webhooks/hanko", *content, body=webhook), 204),
    ]


def request(line, *fields, body=""):
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *fields, "", body]).encode()


class Client:
    """One connection, which sends a request when the previous response is complete."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, name, sent, expected, times):
        for _ in range(times):
            self.socket.sendall(sent)
            received = b""
            while b"\r\n\r\n" not in received:
                received += self.read(name)
            head, body = received.split(b"\r\n\r\n", 1)
            status = int(head[9:12])
            if status != expected:
                raise Failed(f"the status of {name} is {status}, not {expected}")
            length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
            missing = (int(length[1]) if length else 0) - len(body)
            while missing > 0:
                missing -= len(self.read(name))

    def read(self, name):
        received = self.socket.recv(65536)
        if not received:
            raise Failed(f"the server closed the connection of {name}")
        return received


@contextlib.contextmanager
def server(prefix, cores, environment):
    """The server, started with the command `prefix`, and a client."""
    port = free_port()
    with Process("poem-hanko", [*prefix, PROGRAM], cores, {**environment, "PORT": str(port)}) as process:
        deadline = time.monotonic() + 120
        while True:
            process.check()
            try:
                client = Client(port)
                client.send("/readyz", request("GET /readyz"), 200, 1)
                break
            except (OSError, Failed):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield process, client


def by_settings(all_kinds):
    """The kinds, grouped by the settings of their server."""
    groups = {}
    for kind in all_kinds:
        groups.setdefault(tuple(kind[1].items()), []).append(kind)
    return groups.items()


def count_allocations(hanko, cores, all_kinds, times):
    """Allocations, their bytes, and copied bytes, per request of each kind."""
    found = {}
    for settings, group in by_settings(all_kinds):
        with tempfile.NamedTemporaryFile() as counts:
            counts.write(bytes(32))
            counts.flush()
            counting = {"LD_PRELOAD": str(COUNTER), "COUNTS": counts.name}
            environment = {**ONE_THREAD, **counting, **dict(settings), "HANKO_API_URL": hanko.url, **metrics()}
            with server([], cores, environment) as (_, client):
                for name, _, sent, status in group:
                    client.send(name, sent, status, times)
                    before = struct.unpack("4Q", pathlib.Path(counts.name).read_bytes())
                    client.send(name, sent, status, times)
                    after = struct.unpack("4Q", pathlib.Path(counts.name).read_bytes())
                    found[name] = [(b - a) / times for a, b in zip(before, after)]
    return found


def count_instructions(hanko, cores, all_kinds, times):
    """Instructions of the server outside of the kernel, and their misses of a simulated first-level cache, per request of each kind."""
    found = {}
    # The same caches on every machine.
    simulation = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64"]
    for settings, group in by_settings(all_kinds):
        environment = {**ONE_THREAD, **dict(settings), "HANKO_API_URL": hanko.url, **metrics()}
        with tempfile.TemporaryDirectory() as folder:
            prefix = ["valgrind", "--tool=callgrind", *simulation, f"--callgrind-out-file={folder}/out"]
            with server(prefix, cores, environment) as (process, client):
                control = ["vgdb", f"--pid={process.child.pid}"]
                for number, (name, _, sent, status) in enumerate(group, 1):
                    client.send(name, sent, status, 20)
                    subprocess.run([*control, "zero"], check=True, capture_output=True)
                    client.send(name, sent, status, times)
                    subprocess.run([*control, "dump"], check=True, capture_output=True)
                    dump = pathlib.Path(f"{folder}/out.{number}").read_text()
                    events = re.search(r"^events: (.*)$", dump, re.MULTILINE)[1].split()
                    totals = re.search(r"^(?:totals|summary): (.*)$", dump, re.MULTILINE)[1].split()
                    counts = dict(zip(events, map(int, totals)))
                    # Misses of code, and of data that is read and written.
                    misses = sum(counts.get(event, 0) for event in ("I1mr", "D1mr", "D1mw"))
                    found[name] = counts["Ir"] / times, misses / times
    return found


def program():
    parser = argparse.ArgumentParser(prog="benches/requests/run", description="Counts what each kind of request costs.")
    parser.add_argument("--requests", type=int, default=200, help="requests of each kind (default: %(default)s)")
    times = parser.parse_args().requests
    cores = sorted(os.sched_getaffinity(0))
    with Hanko(1, cores) as hanko:
        all_kinds = kinds(hanko)
        progress("counting allocations and copies")
        allocations = count_allocations(hanko, cores, all_kinds, times)
        progress("counting instructions")
        instructions = count_instructions(hanko, cores, all_kinds, times)
    rows = []
    for name, *_ in all_kinds:
        number, allocated, _, copied = allocations[name]
        executed, misses = instructions[name]
        rows.append([name, *(f"{count:,.0f}" for count in (executed, misses, number, allocated, copied))])
    print(f"{description()}\n")
    print(table(["request", "instructions", "cache misses", "allocations", "bytes allocated", "bytes copied"], rows))
    return 0


if __name__ == "__main__":
    main(program)
