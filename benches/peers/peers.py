"""Compares this service with its peers, one core for the server and one for wrk. Started by `run`."""

import argparse
import contextlib
import pathlib
import shutil
import statistics
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
    free_port,
    interval,
    main,
    progress,
    request_rate,
    table,
    two_cores,
    verifications,
    warn_if_busy,
)

TOKENS = 2000
BUN = HERE / "javascript/node_modules/.bin/bun"

OURS = "poem-hanko"
COLD = "poem-hanko without its cache"
BUN_HONO = "Bun + Hono + jose"
AXUM = "axum + axum-jwt-auth"
SPRING = "Spring Boot resource server"
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
METRICS = {**ONE_THREAD, "ADMIN_ADDRESS": "127.0.0.1:PORT"}
PRODUCTION = {"NODE_ENV": "production"}
PEERS = TARGET / "peers"
# For each server: its command, whose files must have been built, and its variables. Ours has metrics on and the mode `hybrid`, unless its
# name says otherwise.
SERVERS = {
    OURS: ([POEM_HANKO], METRICS),
    # Never asks Hanko about a session, as its peers never do.
    COLD: ([POEM_HANKO], {**METRICS, "TOKEN_CACHE_CAPACITY": "0", "HANKO_SESSION_MODE": "stateless"}),
    "poem-hanko, `stateless`": ([POEM_HANKO], {**METRICS, "HANKO_SESSION_MODE": "stateless"}),
    "poem-hanko without metrics": ([POEM_HANKO], ONE_THREAD),
    "poem-hanko with its access log": ([POEM_HANKO], {**METRICS, "ACCESS_LOG": "true"}),
    "poem-hanko asking Hanko each time": (
        [POEM_HANKO], {**METRICS, "HANKO_SESSION_MODE": "stateful", "SESSION_CACHE_TTL": "0s"}),
    AXUM: ([TARGET / "release/axum-peer"], ONE_THREAD),
    "axum + jwt-authorizer": ([TARGET / "release/jwt-authorizer-peer"], ONE_THREAD),
    BUN_HONO: ([BUN, HERE / "javascript/bun-hono.js"], PRODUCTION),
    "Bun + Elysia + jose": ([BUN, HERE / "javascript/bun-elysia.js"], PRODUCTION),
    "Node + Hono + jose": (["node", HERE / "javascript/node-hono.js"], PRODUCTION),
    "Go Echo + jwx": ([PEERS / "go-echo"], {}),
    SPRING: (["java", "-Xmx512m", "-jar", PEERS / "spring/spring-peer.jar"], {}),
    "FastAPI + PyJWT": ([PEERS / "venv/bin/python", HERE / "python/main.py"], {}),
}
# Seconds before a server is measured. Just-in-time compilers and connection pools need some time, most of all those of the JVM.
WARM_UP = {SPRING: 30}
# Path, number of tokens, and how they are sent.
PUBLIC = ("/", 0, "bearer")
# The public route, for clients that send the token with every request.
PUBLIC_WITH_TOKEN = ("/", 1, "bearer")
ONE = ("/protected", 1, "bearer")
COOKIE = ("/protected", 1, "cookie")
MANY = ("/protected", TOKENS, "bearer")


def is_built(command):
    """Whether all files of a command exist."""
    return all(part.exists() for part in command if isinstance(part, pathlib.Path))


def measure(server, scenario, hanko, core, seconds):
    path, tokens, credential = scenario
    return request_rate(server, path, hanko, tokens, credential, core, seconds)


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
        """The rate of `one` divided by that of `other`, round by round: the median and its 95% interval. Both were measured in the same
        round, and in the opposite order in the next, so it matters little if the machine is faster at one time than at another."""
        return interval([a / b for a, b in zip(self.rates[one], self.rates[other])])


def run_all(names, hanko, cores, rounds, seconds):
    """Runs all servers at the same time, and measures one after the other for a short while. The others are idle meanwhile."""
    results = Results()
    server_core, load_core = cores
    scenarios = {name: (PUBLIC, ONE, COOKIE, MANY) for name in names}
    scenarios[OURS] = (PUBLIC, PUBLIC_WITH_TOKEN, ONE, COOKIE, MANY)
    scenarios[COLD] = (MANY,)
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in names:
            command, variables = SERVERS[name]
            environment = {key: value.replace("PORT", str(free_port())) for key, value in variables.items()}
            server = Server(name, command, [server_core], {**environment, "HANKO_API_URL": hanko.url})
            servers[name] = stack.enter_context(server)
            check_answers(server, hanko.token)
            progress(f"warming up {name}")
            for scenario in scenarios[name]:
                measure(server, scenario, hanko, load_core, max(1, WARM_UP.get(name, 4) // len(scenarios[name])))
        for number in range(1, rounds + 1):
            results.verifications.append(verifications(server_core))
            for name, server in list(servers.items())[:: 1 if number % 2 else -1]:
                for scenario in scenarios[name]:
                    if scenario == MANY:
                        # In `hybrid`, Hanko is asked again about sessions that were not used for a minute.
                        measure(server, scenario, hanko, load_core, seconds)
                    rate, busy = measure(server, scenario, hanko, load_core, seconds)
                    results.rates.setdefault((name, scenario), []).append(rate)
                    results.busy.setdefault((name, scenario), []).append(busy)
            progress(f"round {number} of {rounds}: aws-lc verifies {count(results.verifications[-1])} signatures per second; "
                     f"one token: {OURS} {count(results.rates[OURS, ONE][-1])}, {BUN_HONO} {count(results.rates[BUN_HONO, ONE][-1])}")
        for name, server in servers.items():
            results.memory[name] = server.memory()
    return results


def rows(results, names):
    """Per server: requests per second of each kind, and memory now and its peak."""
    for name in names:
        if name == COLD:
            continue
        # The peers cache no tokens: every token is new to them.
        cold = COLD if name == OURS else name
        is_variant = name.startswith(OURS) and name != OURS
        rates = [results.rate(name, scenario) for scenario in (PUBLIC, ONE, COOKIE, MANY)]
        rates.append(None if is_variant else results.rate(cold, MANY))
        yield name, rates, results.memory[name]


def criteria(results):
    """The criteria: each a text, the measured ratio with its interval, and the least ratio."""
    limits = [1 / (1 / v + 1 / p) for v, p in zip(results.verifications, results.rates[OURS, PUBLIC])]
    cold_to_limit = interval([cold / limit for cold, limit in zip(results.rates[COLD, MANY], limits)])
    for text, value, least in [
        (f"warm, against {BUN_HONO}", results.ratio((OURS, ONE), (BUN_HONO, ONE)), 9),
        (f"warm, against {AXUM}", results.ratio((OURS, ONE), (AXUM, ONE)), 6),
        (f"cold, against {AXUM}", results.ratio((COLD, MANY), (AXUM, MANY)), 1.05),
        (f"cold, against the limit of {count(statistics.median(limits))}/s that aws-lc and the public route set",
         cold_to_limit, 0.9),
    ]:
        yield text, value, least


def report(results, names, rounds, seconds):
    print(f"\nMachine: {description()}. One core for the server, one for `wrk -t1 -c{CONNECTIONS}`; RSA 4096; all in turn, {seconds} s "
          f"each, medians of {rounds} rounds. The first figure is the rate with one token, as a multiple of that of {BUN_HONO} "
          f"in the same round. Then requests per second, and MB of memory after the load, and its peak.\n")
    head = ["", f"× {BUN_HONO.split(' + jose')[0]}", "public", "Bearer", "cookie", f"{TOKENS:,} tokens", "every token new", "RSS", "peak"]
    lines = []
    for name, rates, (rss, peak) in rows(results, names):
        bold = "**" if name == OURS else ""
        shown = ["" if rate is None else count(rate) for rate in rates]
        lines.append([f"{bold}{name}{bold}", f"{results.ratio((name, ONE), (BUN_HONO, ONE))[0]:.2f}", *shown, f"{rss:.0f}", f"{peak:.0f}"])
    print(table(head, lines))
    least_busy = min(results.busy, key=lambda key: statistics.median(results.busy[key]))
    print(f"\naws-lc verifies {count(statistics.median(results.verifications))} RSA 4096 signatures per second on that core. "
          f"The least busy server was {least_busy[0]} at `{least_busy[1][0]}`, which used "
          f"{statistics.median(results.busy[least_busy]):.0%} of its core: if this is near 100%, wrk was never the limit.\n")
    print(f"The public route of {OURS} serves {count(results.rate(OURS, PUBLIC_WITH_TOKEN))} requests per second if they have a token "
          f"that it does not need; benches/pairs compares these precisely.\n")
    held = True
    lines = []
    for text, (value, low, high), least in criteria(results):
        held &= value >= least
        lines.append([text, f"{value:.2f}", f"{low:.2f} to {high:.2f}", f"{least:.2f}", "pass" if value >= least else "**fail**"])
    print(table(["criterion", "ratio, median of the rounds", "95% interval", "at least", ""], lines))
    return held


def program():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="how often each server is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument("--chart", type=pathlib.Path, default=HERE / "chart.svg", help="where the chart is written")
    arguments = parser.parse_args()
    for tool in ("wrk", "taskset", "setpriv", "node"):
        if not shutil.which(tool):
            raise Failed(f"{tool} is missing")
    cores = two_cores()
    warn_if_busy()
    start = time.monotonic()
    progress(f"a local Hanko signs {TOKENS:,} tokens with RSA 4096")
    names = [name for name, (command, _) in SERVERS.items() if is_built(command)]
    if missing := [name for name in SERVERS if name not in names]:
        progress(f"skipped, because not built: {', '.join(missing)}")
    with Hanko(TOKENS, cores) as hanko:
        results = run_all(names, hanko, cores, arguments.rounds, arguments.seconds)
    held = report(results, names, arguments.rounds, arguments.seconds)
    shown = [(name, [rates[0], rates[1], rates[3], rates[4]]) for name, rates, _ in rows(results, names) if rates[4] is not None]
    arguments.chart.write_text(chart.draw(shown, TOKENS, description()))
    shown = arguments.chart.resolve()
    progress(f"wrote {shown.relative_to(ROOT) if shown.is_relative_to(ROOT) else shown}; "
             f"{time.monotonic() - start:.0f} s in all")
    return 0 if held else 1


main(program)
