"""What many cached tokens, ended sessions and deleted users cost: rates beside those with few, and memory. Started by `run`."""

import argparse
import contextlib
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "store")]

from machine import (  # noqa: E402
    CONNECTIONS,
    LOAD,
    POEM_HANKO,
    TARGET,
    Process,
    Server,
    check_answers,
    count,
    description,
    free_port,
    interval,
    load,
    main,
    metrics,
    progress,
    status,
    table,
    two_cores,
    warn_if_busy,
)
import store  # noqa: E402

SIGN = TARGET / "debug" / "examples" / "bench-sign"
FOLDER = TARGET / "many"
# The tokens are valid for 30 days.
MAX_AGE = 20 * 86_400
FEW = 1_000
# What a token may occupy beside its length.
MAX_BYTES = 921
# Hanko is asked once about each session: what is measured is not how it is asked again.
ASKED_ONCE = {"SESSION_CACHE_TTL": "4h", "SESSION_MAX_STALE": "8h"}


def sign(tokens):
    """The folder with this number of tokens, signed now or before."""
    folder = FOLDER / str(tokens)
    jwks = folder / "jwks.json"
    if not jwks.exists() or time.time() - jwks.stat().st_mtime > MAX_AGE:
        progress(f"signing {tokens:,} tokens, minutes for a million")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([SIGN, folder, str(tokens)], check=True)
    return folder


@contextlib.contextmanager
def redis(revocations, cores):
    """A Redis with this number of ended sessions, and as many deleted users."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", ""]
    with Process("redis-server", command, cores):
        connection = store.connect(port)
        for make in (store.session, store.user):
            for start in range(0, revocations, 50_000):
                store.write(connection, [make() for _ in range(min(50_000, revocations - start))], 1_000)
        yield f"redis://127.0.0.1:{port}"


class Kind:
    """A server, and how many of the tokens are sent to it in turn."""

    def __init__(self, name, server, tokens, least, compared_with):
        self.name, self.server, self.tokens, self.least, self.compared_with = name, server, tokens, least, compared_with
        self.rates = []
        self.next = 0

    def measure(self, tokens, core, seconds):
        """Each measurement goes on where the one before ended."""
        options = ["--seconds", seconds, "--tokens", tokens, "--first", self.tokens, "--skip", self.next]
        found = load(self.server, "/protected", [core], CONNECTIONS, *options)
        self.next = (self.next + found["requests"]) % self.tokens
        self.rates.append(found["per_second"])


def send_each(server, tokens, number, cores, connections=CONNECTIONS):
    """Sends each of the first `number` tokens once."""
    load(server, "/protected", cores, connections, "--requests", number, "--tokens", tokens, "--first", number)


def start(stack, name, cores, url, **variables):
    environment = {"TOKIO_WORKER_THREADS": "1", "HANKO_API_URL": url, **metrics(), **variables}
    return stack.enter_context(Server(name, [POEM_HANKO], [cores[0]], environment))


def program():
    parser = argparse.ArgumentParser(prog="benches/many/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument("--many", type=int, default=1_000_000, help="how many are many (default: %(default)s)")
    arguments = parser.parse_args()
    many, some = arguments.many, arguments.many // 10
    if some <= FEW:
        parser.error(f"--many must be more than {10 * FEW:,}")
    cores = two_cores()
    folder = sign(many)
    warn_if_busy()
    tokens = folder / "tokens"
    with tokens.open() as lines:
        first = lines.readline().strip()
    length = len(first)
    began = time.monotonic()
    memory = []
    with contextlib.ExitStack() as stack:
        hanko = Process("Hanko", [sys.executable, "-B", HERE / "hanko.py", folder, FEW], cores, stdout=subprocess.PIPE)
        stack.enter_context(hanko)
        url = hanko.child.stdout.readline().decode().strip()
        # Of the other sessions, this Hanko would say that they have ended.
        stateless = {"HANKO_SESSION_MODE": "stateless"}
        kinds = {}
        for number in (FEW, some, many):
            name = f"{number:,} cached tokens"
            server = start(stack, name, cores, url, TOKEN_CACHE_CAPACITY=str(number), **stateless)
            check_answers(server, first)
            before = server.memory()[0]
            progress(f"sending {name}")
            send_each(server, tokens, number, cores[1:])
            after = server.memory()[0]
            memory.append((name, number, before, after))
            least = {FEW: None, some: 0.9, many: 0.8}[number]
            kinds[number] = Kind(name, server, number, least, kinds.get(FEW))
        progress(f"ending {many:,} sessions and deleting as many users")
        empty = stack.enter_context(redis(0, cores))
        full = stack.enter_context(redis(many, cores))
        without = Kind("no revocation", start(stack, "no revocation", cores, url, REVOCATION_STORE_URL=empty, **ASKED_ONCE), FEW, None, None)
        revoking = start(stack, "revocations", cores, url, REVOCATION_STORE_URL=full, **ASKED_ONCE)
        kinds["without"] = without
        kinds["revoking"] = Kind(f"{many:,} ended sessions and as many deleted users", revoking, FEW, 0.97, without)
        for kind in (without, kinds["revoking"]):
            while status(f"{kind.server.url}/readyz") != 200:
                time.sleep(0.1)
            send_each(kind.server, tokens, FEW, cores[1:])
        for number in range(arguments.rounds):
            order = list(kinds.values())
            for kind in order if number % 2 == 0 else reversed(order):
                kind.measure(tokens, cores[1], arguments.seconds)
            progress(f"round {number + 1} of {arguments.rounds}: " + ", ".join(count(kind.rates[-1]) for kind in order))
        loads = repeated_loads(kinds[many], tokens, cores)
    return 0 if report(kinds.values(), memory, loads, length, arguments, time.monotonic() - began) else 1


def repeated_loads(kind, tokens, cores):
    """The memory after each of three identical loads: every token, by 1,000 connections."""
    found = []
    for _ in range(3):
        send_each(kind.server, tokens, kind.tokens, cores[1:], connections=1_000)
        found.append(kind.server.memory()[0])
    return found


def report(kinds, memory, loads, length, arguments, seconds):
    held = True
    print(f"\nMachine: {description()}. One core for the server and one for the load generator with {CONNECTIONS} connections; RSA 2048, tokens "
          f"of {length:,} bytes, sent in turn; {arguments.rounds} interleaved rounds of {arguments.seconds} s.\n")
    lines = []
    for kind in kinds:
        line = [kind.name, count(statistics.median(kind.rates))]
        if kind.compared_with:
            ratios = [rate / other for rate, other in zip(kind.rates, kind.compared_with.rates)]
            ratio, low, high = interval(ratios)
            verdict = "pass" if ratio >= kind.least else "**fail**"
            held &= ratio >= kind.least
            line += [kind.compared_with.name, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"{kind.least:.2f}", verdict]
        lines.append(line + [""] * (7 - len(line)))
    print(table(["", "requests/s", "compared with", "ratio", "95% interval", "at least", ""], lines))
    print()
    lines = []
    for name, number, before, after in memory[1:]:
        each = (after - before) * 1e6 / number
        held &= each <= length + MAX_BYTES
        lines.append([name, f"{before:.0f}", f"{after:.0f}", f"{each - length:.0f}",
                      "pass" if each <= length + MAX_BYTES else "**fail**"])
    print(table(["", "MB before", "MB after", "bytes per token beside its length", f"at most {MAX_BYTES}"], lines))
    growth = loads[2] / loads[0]
    held &= growth <= 1.05
    print(f"\nMemory after three identical loads (every token, 1,000 connections): {', '.join(f'{mb:.0f}' for mb in loads)} MB; the third is "
          f"{growth:.3f} of the first, at most 1.05: {'pass' if growth <= 1.05 else '**fail**'}.")
    progress(f"{seconds:.0f} s in all")
    return held


main(program)
