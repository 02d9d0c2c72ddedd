"""How this service scales with cores, connections and distinct tokens. Started by `run`."""

import argparse
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from machine import (  # noqa: E402
    LOAD,
    POEM_HANKO,
    Failed,
    Hanko,
    Process,
    Server,
    check_answers,
    count,
    description,
    free_port,
    load,
    main,
    metrics,
    progress,
    table,
    two_cores,
    warn_if_busy,
)

CACHE = 10_000
CONNECTIONS = [10, 100, 1_000, 10_000]
TOKENS = [1, 1_000, 100_000]
# In place of a number of tokens: the public route.
PUBLIC = 0
# The number of connections at which the memory with a full cache is compared with that with more tokens than the cache holds, and at
# which the latency has a limit.
CROWD = 1_000
# MB of the state of a session.
SESSION = 200 / 1e6
# MB of the process, of cached tokens of 1,150 bytes with at most 0.9 KiB beside, of the state of their sessions, and of connections.
MAX_RSS = 20 + CACHE * ((1_150 + 921) / 1e6 + SESSION) + CROWD * 0.015
MAX_P999_US = 3_000
MAX_START_UP = 100


def trivial(cores, seconds):
    """The limits of the generator and of the machine, with a server that does nothing: requests per second, and p99.9 in µs with many
    connections at a quarter of that rate."""
    server_core, load_core = cores
    with Process("trivial server", [LOAD, "answer"], [server_core], stdout=subprocess.PIPE) as server:
        server.url = server.child.stdout.readline().decode().strip()
        rate = load(server, "/", [load_core], 100, "--seconds", seconds)["per_second"]
        latencies = load(server, "/", [load_core], CROWD, "--seconds", seconds, "--rate", rate / 4)
        return rate, latencies["p999_us"]


def start_up(hanko, cores):
    """Milliseconds from the start of the process until it listens, the median of several starts."""
    times = []
    for _ in range(15):
        port = free_port()
        environment = {"HANKO_API_URL": hanko.url, "PORT": str(port)}
        start = time.monotonic()
        with Process("poem-hanko", [POEM_HANKO], cores, environment) as process:
            while True:
                process.check()
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.0002)
            times.append(1_000 * (time.monotonic() - start))
    return statistics.median(times)


def measure(hanko, cores, server_cores, tokens, connections, seconds):
    """One row of the table."""
    environment = {
        "HANKO_API_URL": hanko.url,
        **metrics(),
        "TOKEN_CACHE_CAPACITY": str(CACHE),
        "TOKIO_WORKER_THREADS": str(server_cores),
    }
    load_cores = cores[1:] if server_cores == 1 else cores
    with Server("poem-hanko", [POEM_HANKO], cores[:server_cores], environment) as server:
        check_answers(server, hanko.token)
        path, sent = ("/", []) if tokens == PUBLIC else ("/protected", ["--tokens", hanko.tokens, "--first", tokens])
        # Warms up: every token once, and more requests for the connection handling if the tokens are few.
        load(server, path, load_cores, 100, "--requests", max(tokens, 5_000), *sent)
        full = load(server, path, load_cores, connections, "--seconds", seconds, *sent)
        rate = full["per_second"] / 2
        half = load(server, path, load_cores, connections, "--seconds", seconds, "--rate", rate, *sent)
        if half["per_second"] < 0.97 * rate:
            progress(f"  warning: only {half['per_second']:.0f} of {rate:.0f} requests/s got a response at half load")
        rss, peak = server.memory()
        server.check()
    return {
        "cores": server_cores,
        "tokens": tokens,
        "connections": connections,
        "rate": full["per_second"],
        "per_cpu_second": full["requests"] / full["cpu_seconds"],
        "busy": full["busy"] / server_cores,
        "latencies": [half[name] for name in ("p50_us", "p99_us", "p999_us")],
        "rss": rss,
        "peak": peak,
    }


def latency(microseconds):
    """Formats a latency with three digits, in µs or ms."""
    if microseconds < 1_000:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1_000:.3g} ms"


def criteria(rows, start, trivial_p999):
    """The criteria, and whether each is met."""
    yield f"the server listens {start:.1f} ms after its start, at most {MAX_START_UP}", start <= MAX_START_UP

    def pick(cores, tokens, connections):
        found = [row for row in rows if (row["cores"], row["tokens"], row["connections"]) == (cores, tokens, connections)]
        return found[0] if found else None

    one, two = pick(1, 1_000, 100), pick(2, 1_000, 100)
    if one and two:
        ratio = 2 * two["per_cpu_second"] / one["per_cpu_second"]
        yield (f"two cores serve {ratio:.2f} times as many requests as one (1,000 tokens, 100 connections, by CPU time), at least 1.80",
               ratio >= 1.8)
    # Two cores are shared with the generator.
    crowded = [row["latencies"][-1] for row in rows if (row["cores"], row["connections"]) == (1, CROWD)]
    if crowded:
        yield (f"p99.9 with {CROWD:,} connections at half of the rate, on one core: {latency(max(crowded))} at most, at most "
               f"{latency(MAX_P999_US)}; a server that does nothing has {latency(trivial_p999)} on this machine", max(crowded) <= MAX_P999_US)
    full, over = pick(1, CACHE, CROWD), pick(1, 100_000, CROWD)
    if full and over:
        yield (f"memory with {CROWD:,} connections and a full cache: {full['peak']:.1f} MB at most, under "
               f"{MAX_RSS:.0f} MB", full["peak"] < MAX_RSS)
        yield (f"the same with 100,000 distinct tokens: {over['peak']:.1f} MB at most, no more than the state of 100,000 sessions above",
               over["peak"] <= full["peak"] + 100_000 * SESSION)


def report(rows, generator, trivial_p999, start, seconds):
    print(f"\nMachine: {description()}. `/protected`, or the public route without a token; RSA 4096, tokens in "
          f"turn, a cache of {CACHE:,} tokens, metrics on, {seconds} s each; latencies at a constant half of the rate, from the moment a "
          "request was due; MB of memory after the load, and its peak.\n")
    head = ["cores", "tokens", "connections", "requests/s", "per CPU second", "busy", "p50", "p99", "p99.9", "RSS", "peak"]
    lines = [
        [row["cores"], "public route" if row["tokens"] == PUBLIC else f"{row['tokens']:,}", f"{row['connections']:,}",
         count(row["rate"]), count(row["per_cpu_second"]), f"{row['busy']:.0%}", *map(latency, row["latencies"]), f"{row['rss']:.0f}",
         f"{row['peak']:.0f}"]
        for row in rows
    ]
    print(table(head, lines))
    print(f"\nIf the server has one core, the load generator has the other; it can send {count(generator)} requests/s to a server that "
          "does nothing. If the server has two, the generator shares them, and requests/s depends on the generator too: compare *per CPU "
          "second* there, the requests divided by the CPU time of the server. *busy* is the share of its cores that the server used.\n")
    held = True
    for text, holds in criteria(rows, start, trivial_p999):
        held &= holds
        print(f"- {'pass' if holds else '**fail**'}: {text}")
    return held


def program():
    def numbers(text):
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(prog="benches/scale/run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument("--connections", type=numbers, default=CONNECTIONS, metavar="N,N")
    parser.add_argument("--tokens", type=numbers, default=TOKENS, metavar="N,N", help="100,000 take minutes to sign")
    arguments = parser.parse_args()
    cores = two_cores()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < max(arguments.connections) + 200:
        raise Failed(f"{max(arguments.connections):,} connections need as many file descriptors; this machine allows {hard:,}")
    warn_if_busy()
    generator, trivial_p999 = trivial(cores, arguments.seconds)
    progress(f"the load generator can send {count(generator)} requests/s; p99.9 of a server that does nothing: "
             f"{latency(trivial_p999)}")

    runs = [(tokens, connections) for tokens in arguments.tokens for connections in arguments.connections]
    if max(arguments.tokens) > CACHE and CROWD in arguments.connections:
        runs.append((CACHE, CROWD))
    if CROWD in arguments.connections:
        runs.append((PUBLIC, CROWD))
    runs = [(server_cores, *run) for server_cores in (1, 2) for run in sorted(runs)]
    tokens = max(tokens for _, tokens, _ in runs)
    progress(f"a local Hanko signs {tokens:,} tokens with RSA 4096")
    rows = []
    with Hanko(tokens, cores) as hanko:
        start = start_up(hanko, cores)
        for number, run in enumerate(runs, 1):
            row = measure(hanko, cores, *run, arguments.seconds)
            rows.append(row)
            progress(f"{number} of {len(runs)}: {run[0]} core(s), {run[1]:,} token(s), {run[2]:,} connections: "
                     f"{count(row['rate'])} requests/s, p99 {latency(row['latencies'][1])}, {row['peak']:.0f} MB")
    return 0 if report(rows, generator, trivial_p999, start, arguments.seconds) else 1


main(program)
