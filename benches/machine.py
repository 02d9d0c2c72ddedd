"""The machine a benchmark runs on: its cores, and the processes started there. Linux only."""

import json
import os
import pathlib
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
TICKS = os.sysconf("SC_CLK_TCK")
EXAMPLE = TARGET / "debug" / "examples" / "bench-hanko"
LOAD = TARGET / "release" / "load"
POEM_HANKO = TARGET / "release" / "poem-hanko"
VERIFY = TARGET / "release" / "examples" / "bench-verify"
# The number of connections that wrk keeps busy.
CONNECTIONS = 32


class Failed(Exception):
    """The reason why a benchmark cannot continue."""


def progress(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def two_cores():
    """The core of the server and the core of the load generator."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Failed("this needs two cores: one for the server, one for the load generator")
    return cores[:2]


def description():
    """Describes the machine in one line, for the text above a table."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    virtual = ", virtual" if "hypervisor" in info else ""
    return (
        f"{names[0] if names else platform.machine()} with {os.cpu_count()} cores{virtual}, "
        f"{memory:.0f} GiB, Linux {platform.release().split('-')[0]}"
    )


def warn_if_busy():
    """Warns if other programs used more than a fifth of a core in the last second."""

    def busy():
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(fields) - fields[3] - fields[4]

    before = busy()
    time.sleep(1)
    cores = (busy() - before) / TICKS
    if cores > 0.2:
        progress(f"warning: other programs use {cores:.1f} cores: the figures will not be reliable")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A child process on the given cores. It ends with its `with` block, and with this program, even if that is killed."""

    running = []

    def __init__(self, name, command, cores, environment=None, stdout=subprocess.DEVNULL):
        self.name = name
        self.log = tempfile.TemporaryFile()
        tie = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", ",".join(map(str, cores))]
        self.child = subprocess.Popen(
            [*tie, *map(str, command)],
            # Neither the variables of the caller nor a `.env` file change what is measured.
            env={"PATH": os.environ["PATH"], **(environment or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=self.log,
        )
        Process.running.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self in Process.running:
            Process.running.remove(self)
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(2)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.log.close()

    def check(self):
        if self.child.poll() is not None:
            self.log.seek(0)
            raise Failed(f"{self.name} ended: {self.log.read().decode(errors='replace').strip()[-2000:]}")

    def memory(self):
        """Resident memory now, and its peak, in MB."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return tuple(int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Server(Process):
    """A server on its own port. The constructor waits until it responds."""

    def __init__(self, name, command, cores, environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(name, command, cores, {**environment, "PORT": str(self.port)})
        deadline = time.monotonic() + 60
        while True:
            self.check()
            try:
                if status(f"{self.url}/") == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.end()
                raise Failed(f"{name} does not respond within 60 s")
            time.sleep(0.02)


class Hanko:
    """A local Hanko with RSA 4096, and a file with as many of its session tokens as `tokens` says."""

    # The same as in support/hanko.rs.
    issuer = "https://hanko.example"

    def __init__(self, tokens, cores):
        self.folder = tempfile.TemporaryDirectory(prefix="poem-hanko-bench-")
        folder = pathlib.Path(self.folder.name)
        self.tokens = folder / "tokens"
        self.process = Process("the local Hanko", [EXAMPLE, folder, tokens], cores)
        try:
            while not (folder / "hanko-url").exists():
                self.process.check()
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        self.url = (folder / "hanko-url").read_text()
        self.webhook = (folder / "webhook").read_text()
        with self.tokens.open() as lines:
            self.token = lines.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        self.folder.cleanup()


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status(url, headers=None):
    """The status of a GET request."""
    try:
        with OPENER.open(urllib.request.Request(url, headers=headers or {}), timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def check_answers(server, token):
    """Checks that a server accepts valid tokens and nothing else, before its speed is measured."""
    forged = token[:-8] + ("A" * 8 if token[-8:] != "A" * 8 else "B" * 8)
    for path, headers, expected in [
        ("/", {}, 200),
        ("/protected", {}, 401),
        ("/protected", {"Authorization": f"Bearer {token}"}, 200),
        ("/protected", {"Cookie": f"hanko={token}"}, 200),
        ("/protected", {"Authorization": f"Bearer {forged}"}, 401),
        ("/protected", {"Cookie": f"hanko={forged}"}, 401),
    ]:
        got = status(server.url + path, headers)
        if got != expected:
            raise Failed(f"{server.name} responds with {got}, not {expected}, to {path} with {list(headers) or 'nothing'}")


def request_rate(server, path, hanko, tokens, credential, core, seconds):
    """Requests per second that got a 2xx response, and the share of the time in which the server used its core. `tokens` is the number of
    session tokens that are sent in turn; see support/requests.lua for `credential`."""
    busy, start = server.cpu_seconds(), time.monotonic()
    run = subprocess.run(
        ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s"]
        + ["-s", ROOT / "benches/support/requests.lua", server.url + path, "--", hanko.tokens, str(tokens), credential],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    busy = (server.cpu_seconds() - busy) / (time.monotonic() - start)
    server.check()
    result = re.search(r"^RESULT (\d+) (\d+) (\d+)$", run.stdout, re.MULTILINE)
    if run.returncode != 0 or not result:
        raise Failed(f"wrk: {run.stdout}{run.stderr}")
    requests, microseconds, errors = map(int, result.groups())
    if errors or not requests:
        raise Failed(f"{server.name}: {errors} of {requests} requests to {path} did not succeed")
    return requests / microseconds * 1e6, busy


def metrics():
    """The variables with which the program counts metrics."""
    return {"ADMIN_ADDRESS": f"127.0.0.1:{free_port()}"}


def verifications(core):
    """RSA 4096 verifications per second by aws-lc alone."""
    output = subprocess.run(["taskset", "-c", str(core), VERIFY, "1"], capture_output=True, text=True, timeout=60, check=True)
    return float(output.stdout)


def load(server, path, cores, connections, *options):
    """Runs the load generator and returns its results. A response other than 200 counts as a failure."""
    address = server.url.removeprefix("http://")
    command = [LOAD, "request", address, path, "--connections", connections, *options]
    with Process("load generator", command, cores, stdout=subprocess.PIPE) as generator:

        def line():
            text = generator.child.stdout.readline()
            if not text:
                generator.child.wait()
                generator.check()
            return text

        line()
        busy, start = server.cpu_seconds(), time.monotonic()
        found = json.loads(line())
        found["cpu_seconds"] = server.cpu_seconds() - busy
        found["busy"] = found["cpu_seconds"] / (time.monotonic() - start)
    if found["failures"] or not found["requests"]:
        raise Failed(f"{found['failures']} of {found['requests']} requests to {path} did not get 200")
    return found


def interval(ratios):
    """The median and its 95% confidence interval by bootstrap."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(4000))
    return statistics.median(ratios), medians[99], medians[3899]


def main(program):
    """Runs a program, and ends its processes whatever happens."""

    def stop(number, _frame):
        raise Failed(f"ended by {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        sys.exit(program())
    except Failed as failed:
        sys.exit(f"error: {failed}")
    finally:
        for process in list(Process.running):
            process.end()


def table(head, rows):
    """A Markdown table with the numbers aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def count(number):
    """A count with three significant digits, as the noise allows."""
    digits = max(0, len(str(int(number))) - 3)
    return f"{round(number, -digits):,.0f}"
