"""Compares this service with its peers, one core for the server and one for wrk. Started by `run`."""

import argparse
import contextlib
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import chart  # noqa: E402
from machine import (  # noqa: E402
    CONNECTIONS,
    POEM_HANKO,
    ROOT,
    TARGET,
    Failed,
    Hanko,
    Server,
    check_answers,
    count,
    description,
    is_busy,
    main,
    progress,
    request_rate,
    table,
    two_cores,
)

TOKENS = 2000
BUN = HERE / "javascript/node_modules/.bin/bun"

OURS = "poem-hanko"
COLD = "poem-hanko without its cache"
BUN_HONO = "Bun + Hono + jose"
AXUM = "axum + axum-jwt-auth"
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
SERVERS = {
    OURS: ([POEM_HANKO], ONE_THREAD),
    COLD: ([POEM_HANKO], {**ONE_THREAD, "TOKEN_CACHE_CAPACITY": "0"}),
    AXUM: ([TARGET / "release/axum-peer"], ONE_THREAD),
    BUN_HONO: ([BUN, HERE / "javascript/bun-hono.js"], {"NODE_ENV": "production"}),
    "Bun + Elysia + jose": ([BUN, HERE / "javascript/bun-elysia.js"], {"NODE_ENV": "production"}),
    "Node + Hono + jose": (["node", HERE / "javascript/node-hono.js"], {"NODE_ENV": "production"}),
}
# Path and number of tokens.
PUBLIC = ("/", 0)
# As it is asked by clients that send the token with every request.
PUBLIC_WITH_TOKEN = ("/", 1)
ONE = ("/protected", 1)
MANY = ("/protected", TOKENS)


def measure(server, scenario, hanko, core, seconds):
    path, tokens = scenario
    return request_rate(server, path, hanko, tokens, "bearer", core, seconds)


def verifications(core):
    """RSA 4096 verifications a second by OpenSSL."""
    output = subprocess.run(
        ["taskset", "-c", str(core), "openssl", "speed", "-seconds", "1", "rsa4096"],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    head, line = re.search(r"^( +sign .*)\n(?:.*\n)*?rsa +4096 bits(.*)$", output, re.MULTILINE).groups()
    return float(line.split()[head.split().index("verify/s")])


class Results:
    """What was measured, in the order of the rounds."""

    def __init__(self):
        self.rates = {}
        self.busy = {}
        self.memory = {}
        self.verifications = []

    def rate(self, name, scenario):
        return statistics.median(self.rates[name, scenario])

    def ratio(self, one, other):
        """How `one` compares with `other`, the median over the rounds: of what was measured within seconds of each other, so
        that a machine which is faster at one time than at another makes no difference."""
        return statistics.median(a / b for a, b in zip(self.rates[one], self.rates[other]))


def run_all(hanko, cores, rounds, seconds):
    """Runs all servers at once, idle but for the one that is measured, each in turn for a short while."""
    results = Results()
    server_core, load_core = cores
    scenarios = {name: (PUBLIC, ONE, MANY) for name in SERVERS}
    scenarios[OURS] = (PUBLIC, PUBLIC_WITH_TOKEN, ONE, MANY)
    scenarios[COLD] = (MANY,)
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, (command, environment) in SERVERS.items():
            server = Server(name, command, [server_core], {**environment, "HANKO_API_URL": hanko.url})
            servers[name] = stack.enter_context(server)
            check_answers(server, hanko.token)
            # Just-in-time compilers and connection pools want some time.
            for scenario in scenarios[name]:
                measure(server, scenario, hanko, load_core, 2)
        for number in range(1, rounds + 1):
            results.verifications.append(verifications(server_core))
            for name, server in servers.items():
                for scenario in scenarios[name]:
                    rate, busy = measure(server, scenario, hanko, load_core, seconds)
                    results.rates.setdefault((name, scenario), []).append(rate)
                    results.busy.setdefault((name, scenario), []).append(busy)
            warm = ", ".join(f"{name} {count(results.rates[name, ONE][-1])}" for name in SERVERS if name != COLD)
            progress(f"round {number} of {rounds}: OpenSSL verifies {count(results.verifications[-1])} signatures a second; "
                     f"one token: {warm}")
        for name, server in servers.items():
            results.memory[name] = server.memory()
    return results


def rows(results):
    """Per server: requests a second by kind, and memory now and at most."""
    for name in SERVERS:
        if name == COLD:
            continue
        # No peer remembers a token: every one is new to it.
        cold = COLD if name == OURS else name
        rates = [results.rate(name, scenario) for scenario in (PUBLIC, ONE, MANY)] + [results.rate(cold, MANY)]
        yield name, rates, results.memory[name]


def criteria(results):
    """What must hold, and whether it did."""
    limits = [1 / (1 / v + 1 / p) for v, p in zip(results.verifications, results.rates[OURS, PUBLIC])]
    cold_to_limit = statistics.median(cold / limit for cold, limit in zip(results.rates[COLD, MANY], limits))
    for text, value, least in [
        ("warm, against the same request to its own public route", results.ratio((OURS, ONE), (OURS, PUBLIC_WITH_TOKEN)), 0.85),
        (f"warm, against {BUN_HONO}", results.ratio((OURS, ONE), (BUN_HONO, ONE)), 8),
        (f"warm, against {AXUM}", results.ratio((OURS, ONE), (AXUM, ONE)), 6),
        (f"cold, against {AXUM}", results.ratio((COLD, MANY), (AXUM, MANY)), 1.05),
        (f"cold, against the limit of {count(statistics.median(limits))}/s that OpenSSL and the public route set",
         cold_to_limit, 0.85),
    ]:
        yield text, value, least


def report(results, rounds, seconds):
    hono = results.rate(BUN_HONO, ONE)
    print(f"\nMachine: {description()}. One core for the server, one for `wrk -t1 -c{CONNECTIONS}`; RSA 4096; "
          f"all in turn, {seconds} s each, medians of {rounds} rounds; requests per second, and MB of memory after the load and at most.\n")
    head = ["", "public", "one token", f"{TOKENS:,} tokens", "every token new", f"one token, × {BUN_HONO.split(' + jose')[0]}",
            "RSS", "peak"]
    lines = []
    for name, rates, (rss, peak) in rows(results):
        bold = "**" if name == OURS else ""
        lines.append([f"{bold}{name}{bold}", *map(count, rates), f"{rates[1] / hono:.1f}", f"{rss:.0f}", f"{peak:.0f}"])
    print(table(head, lines))
    least_busy = min(results.busy, key=lambda key: statistics.median(results.busy[key]))
    print(f"\nOpenSSL verifies {count(statistics.median(results.verifications))} RSA 4096 signatures per second on that core. "
          f"Least busy of its core was {least_busy[0]} at `{least_busy[1][0]}`, "
          f"{statistics.median(results.busy[least_busy]):.0%}: near 100%, wrk was nowhere the limit.\n")
    print(f"To the public route, {OURS} answers {count(results.rate(OURS, PUBLIC_WITH_TOKEN))} requests per second that carry a "
          f"token all the same. Warm requests are served at {results.ratio((OURS, ONE), (OURS, PUBLIC)):.2f} of the rate of "
          f"public ones without a token, which are far shorter.\n")
    held = True
    lines = []
    for text, value, least in criteria(results):
        held &= value >= least
        lines.append([text, f"{value:.2f}", f"{least:.2f}", "pass" if value >= least else "**fail**"])
    print(table(["criterion", "ratio, median of the rounds", "at least", ""], lines))
    return held


def program():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="how often each server is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement (default: %(default)s)")
    parser.add_argument("--chart", type=pathlib.Path, default=HERE / "chart.svg", help="where the chart is written")
    arguments = parser.parse_args()
    for tool in ("wrk", "openssl", "taskset", "setpriv", "node"):
        if not shutil.which(tool):
            raise Failed(f"{tool} is missing")
    cores = two_cores()
    if (busy := is_busy()) > 0.2:
        progress(f"warning: other programs use {busy:.1f} cores: these figures will not be good ones")
    start = time.monotonic()
    progress(f"a local Hanko signs {TOKENS:,} tokens with RSA 4096")
    with Hanko(TOKENS, cores) as hanko:
        results = run_all(hanko, cores, arguments.rounds, arguments.seconds)
    held = report(results, arguments.rounds, arguments.seconds)
    arguments.chart.write_text(chart.draw([(name, rates) for name, rates, _ in rows(results)], TOKENS, description()))
    shown = arguments.chart.resolve()
    progress(f"wrote {shown.relative_to(ROOT) if shown.is_relative_to(ROOT) else shown}; "
             f"{time.monotonic() - start:.0f} s in all")
    return 0 if held else 1


main(program)
