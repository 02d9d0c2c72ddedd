"""Compares the cost of requests in pairs of measurements that are made within seconds, and prints each ratio of rates with its 95%
confidence interval. One core for the server, one for wrk. Started by `run`."""

import argparse
import contextlib
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from machine import (  # noqa: E402
    CONNECTIONS,
    POEM_HANKO,
    Failed,
    Hanko,
    Server,
    check_answers,
    count,
    description,
    free_port,
    interval,
    load,
    main,
    progress,
    request_rate,
    table,
    two_cores,
    verifications,
    warn_if_busy,
)

ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
ADMIN = {"ADMIN_ADDRESS": "127.0.0.1:{port}"}
# Each is a process of its own, in `hybrid`, with metrics and without an access log unless its name says otherwise.
SERVERS = {
    "ours": ADMIN,
    "ours again": ADMIN,
    "without metrics": {},
    "with an access log": {**ADMIN, "ACCESS_LOG": "true", "LOG_FORMAT": "json"},
    "without a token cache": {**ADMIN, "TOKEN_CACHE_CAPACITY": "0"},
    "stateless": {**ADMIN, "HANKO_SESSION_MODE": "stateless"},
}
# Name: what is compared, with what, the least ratio that is accepted (None: for information). Each side is a server, a path, and
# how the token is sent. `spin`: by Bearer, from a load generator that polls, because waking a client that sleeps costs the server more
# than the rest of a public request. `limit`: 1 / (1 / V + 1 / P), of V verifications by aws-lc alone and P such requests per second.
ROWS = {
    "self": (("ours", "/protected", "bearer"), ("ours again", "/protected", "bearer"), None),
    "bearer": (("ours", "/protected", "bearer"), ("ours", "/", "bearer"), 0.92),
    "cookie": (("ours", "/protected", "cookie"), ("ours", "/", "cookie"), 0.90),
    "metrics": (("ours", "/protected", "bearer"), ("without metrics", "/protected", "bearer"), 0.97),
    "access-log": (("with an access log", "/protected", "bearer"), ("ours", "/protected", "bearer"), None),
    "mode": (("ours", "/protected", "bearer"), ("stateless", "/protected", "bearer"), None),
    "forward-auth": (("ours", "/forward-auth", "proxy"), ("ours", "/protected", "cookie"), 0.75),
    "cold": (("without a token cache", "/protected", "spin"), ("ours", "/", "limit"), 0.90),
}
LABELS = {
    "self": "the same against itself: the noise",
    "bearer": "`/protected` / the public route, both with a Bearer token",
    "cookie": "`/protected` / the public route, both with ten cookies",
    "metrics": "`/protected` with metrics / without",
    "access-log": "`/protected` with the access log / without",
    "mode": "`/protected` in `hybrid` / in `stateless`",
    "forward-auth": "`/forward-auth` as nginx asks / `/protected`, both with ten cookies",
    "cold": "`/protected`, token not cached / the limit of aws-lc and the public route",
}


def compare(row, servers, hanko, cores, pairs, seconds):
    """The rates of both sides, pair by pair. Each side goes first in every second pair."""
    sides = ROWS[row][:2]

    def polled(server, path, *options):
        return load(server, path, [cores[1]], CONNECTIONS, "--spin", "--seconds", seconds, *options)["per_second"]

    def rate(side):
        name, path, credential = side
        if credential == "spin":
            return polled(servers[name], path, "--tokens", hanko.tokens)
        if credential == "limit":
            return 1 / (1 / verifications(cores[0]) + 1 / polled(servers[name], path))
        return request_rate(servers[name], path, hanko, 1, credential, cores[1], seconds)[0]

    rates = ([], [])
    for number in range(pairs):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            rates[index].append(rate(sides[index]))
    return rates


def program():
    parser = argparse.ArgumentParser(prog="benches/pairs/run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=30, help="how many pairs of measurements (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds of each measurement (default: %(default)s)")
    arguments = parser.parse_args()
    rows = arguments.rows or list(ROWS)
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    cores = two_cores()
    warn_if_busy()
    start = time.monotonic()
    needed = {side[0] for row in rows for side in ROWS[row][:2]}
    lines, held = [], True
    with Hanko(1, cores) as hanko, contextlib.ExitStack() as stack:
        servers = {}
        for name in needed:
            variables = {key: value.format(port=free_port()) for key, value in SERVERS[name].items()}
            environment = {**ONE_THREAD, "HANKO_API_URL": hanko.url, **variables}
            servers[name] = stack.enter_context(Server(name, [POEM_HANKO], [cores[0]], environment))
            check_answers(servers[name], hanko.token)
            # Fills pools and caches.
            request_rate(servers[name], "/protected", hanko, 1, "bearer", cores[1], 1)
        for row in rows:
            rates = compare(row, servers, hanko, cores, arguments.pairs, arguments.seconds)
            ratio, low, high = interval([one / other for one, other in zip(*rates)])
            least = ROWS[row][2]
            verdict = "" if least is None else "pass" if ratio >= least else "**fail**"
            held &= verdict != "**fail**"
            one, other = map(statistics.median, rates)
            progress(f"{row}: {ratio:.3f} ({low:.3f} to {high:.3f})")
            lines.append([LABELS[row], count(one), count(other), f"{ratio:.3f}", f"{low:.3f} to {high:.3f}",
                          "" if least is None else f"{least:.2f}", verdict])
    print(f"\nMachine: {description()}. One core for the server, one for wrk with 32 connections; one warm token; `hybrid`, metrics on, "
          f"access log off unless named; {arguments.pairs} interleaved pairs of {arguments.seconds} s.\n")
    print(table(["", "requests/s", "compared with", "ratio", "95% interval", "at least", ""], lines))
    progress(f"{time.monotonic() - start:.0f} s in all")
    return 0 if held else 1


main(program)
