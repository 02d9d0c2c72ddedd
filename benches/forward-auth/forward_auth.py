"""What forward-auth costs: requests per second at the endpoint, and the latency that nginx's `auth_request` adds at half of the
greatest load. The servers share one core, the load generator has the other. Started by `run`."""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from machine import (  # noqa: E402
    LOAD,
    POEM_HANKO,
    ROOT,
    TARGET,
    Failed,
    Hanko,
    Process,
    Server,
    check_answers,
    count,
    description,
    free_port,
    main,
    progress,
    request_rate,
    status,
    table,
    two_cores,
    warn_if_busy,
)

OAUTH2_PROXY = TARGET / "forward-auth/oauth2-proxy"
NGINX_CONNECTIONS = 64
LEAST_RATIO = 0.75


def wait_for(process, url, expected=200, headers=None):
    deadline = time.monotonic() + 10
    while True:
        process.check()
        with contextlib.suppress(OSError):
            if status(url, headers) == expected:
                return
        if time.monotonic() > deadline:
            raise Failed(f"{process.name} does not respond with {expected} within 10 s")
        time.sleep(0.02)


class OAuth2Proxy(Process):
    """oauth2-proxy with Hanko's key set, for Bearer tokens: it does not read Hanko's cookie."""

    def __init__(self, hanko, core):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            OAUTH2_PROXY, f"--http-address=127.0.0.1:{port}", "--provider=oidc", "--skip-oidc-discovery",
            f"--oidc-issuer-url={hanko.issuer}", f"--oidc-jwks-url={hanko.url}/.well-known/jwks.json",
            "--login-url=http://127.0.0.1:1/login", "--redeem-url=http://127.0.0.1:1/token", "--client-id=localhost",
            "--client-secret=unused", "--cookie-secret=0123456789abcdef", "--email-domain=*", "--upstream=static://200",
            "--skip-jwt-bearer-tokens", "--oidc-email-claim=sub", "--insecure-oidc-allow-unverified-email",
            "--request-logging=false", "--auth-logging=false", "--standard-logging=false",
        ]
        super().__init__("oauth2-proxy", command, [core], {"GOMAXPROCS": "1"})
        bearer = {"Authorization": f"Bearer {hanko.token}"}
        wait_for(self, f"{self.url}/ping")
        if (got := status(f"{self.url}/oauth2/auth")) != 401:
            raise Failed(f"oauth2-proxy responds with {got}, not 401, without a token")
        if (got := status(f"{self.url}/oauth2/auth", bearer)) != 202:
            raise Failed(f"oauth2-proxy responds with {got}, not 202, to a token")


def nginx(folder, name, configuration, port, core):
    path = folder / f"{name}.conf"
    path.write_text(f"daemon off; pid {folder}/{name}.pid; error_log stderr crit;\n{configuration}")
    process = Process(name, ["/usr/sbin/nginx", "-e", "stderr", "-p", folder, "-c", path], [core])
    process.url = f"http://127.0.0.1:{port}/"
    return process


def configurations(api, site, guarded_port, open_port):
    """deploy/nginx/nginx.conf with the addresses of this run, and the same without its guard."""
    text = (ROOT / "deploy/nginx/nginx.conf").read_text()
    for one, other in [("127.0.0.1:8000", api), ("127.0.0.1:3000", site), ("http {", "http {\n  access_log off;")]:
        text = text.replace(one, other)
    unguarded = text.replace("auth_request /_hanko;", "auth_request off;")
    return text.replace("listen 8080", f"listen 127.0.0.1:{guarded_port}"), unguarded.replace(
        "listen 8080", f"listen 127.0.0.1:{open_port}")


def load(url, hanko, core, rate, seconds):
    address = url.removeprefix("http://").rstrip("/")
    run = subprocess.run(
        ["taskset", "-c", str(core), LOAD, "request", address, "/", "--connections", str(NGINX_CONNECTIONS), "--seconds", str(seconds),
         "--rate", str(rate), "--tokens", hanko.tokens, "--first", "1"],
        capture_output=True, text=True, timeout=seconds + 30,
    )
    if run.returncode != 0:
        raise Failed(f"load: {run.stderr}")
    result = json.loads(run.stdout.splitlines()[-1])
    if result["failures"]:
        raise Failed(f"{result['failures']} of {result['requests']} requests to {url} failed")
    return result


def endpoint(hanko, api, cores, rounds):
    """Requests per second of each endpoint, measured in turn."""
    sides = {
        "`/forward-auth` as nginx asks, by cookie": (api, "/forward-auth", "proxy"),
        "`/protected`, by cookie": (api, "/protected", "cookie"),
    }
    rates = {name: [] for name in sides}
    with contextlib.ExitStack() as stack:
        if OAUTH2_PROXY.exists():
            name = "oauth2-proxy 7, `/oauth2/auth`, by Bearer"
            sides[name] = (stack.enter_context(OAuth2Proxy(hanko, cores[0])), "/oauth2/auth", "bearer")
            rates[name] = []
        else:
            progress("skipped: oauth2-proxy, which is not built")
        for _ in range(rounds):
            for name, (server, path, credential) in sides.items():
                rates[name].append(request_rate(server, path, hanko, 1, credential, cores[1], 1)[0])
    forward, protected = list(rates.values())[:2]
    ratio = statistics.median(one / other for one, other in zip(forward, protected))
    lines = [[name, count(statistics.median(values))] for name, values in rates.items()]
    return lines, ratio


def latency(hanko, api, cores, rounds):
    """What nginx's `auth_request` adds at half of the load that the guarded site can take."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        site = stack.enter_context(Process("the site", [LOAD, "answer"], [cores[0]], stdout=subprocess.PIPE))
        address = site.child.stdout.readline().decode().strip()
        ports = free_port(), free_port()
        texts = configurations(api.url.removeprefix("http://"), address, *ports)
        guarded, unguarded = (
            stack.enter_context(nginx(folder, name, text, port, cores[0]))
            for name, text, port in zip(("guarded", "unguarded"), texts, ports)
        )
        wait_for(unguarded, unguarded.url)
        wait_for(guarded, guarded.url, 401)
        wait_for(guarded, guarded.url, 200, {"Authorization": f"Bearer {hanko.token}"})
        greatest = {process.name: load(process.url, hanko, cores[1], 0, 3)["per_second"] for process in (unguarded, guarded)}
        rate = greatest["guarded"] / 2
        results = {"unguarded": [], "guarded": []}
        for _ in range(rounds):
            for process in (unguarded, guarded):
                results[process.name].append(load(process.url, hanko, cores[1], rate, 2))
    lines = []
    for name, label in (("unguarded", "nginx without the guard"), ("guarded", "nginx with `auth_request`")):
        medians = [statistics.median(result[field] for result in results[name]) for field in ("p50_us", "p99_us")]
        lines.append([label, count(greatest[name]), *(f"{value:.0f}" for value in medians)])
    return lines, rate


def program():
    parser = argparse.ArgumentParser(prog="benches/forward-auth/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how often each is measured (default: %(default)s)")
    rounds = parser.parse_args().rounds
    cores = two_cores()
    warn_if_busy()
    with Hanko(1, cores) as hanko:
        environment = {"TOKIO_WORKER_THREADS": "1", "HANKO_API_URL": hanko.url}
        with Server("poem-hanko", [POEM_HANKO], [cores[0]], environment) as api:
            check_answers(api, hanko.token)
            progress("measuring the endpoint")
            rates, ratio = endpoint(hanko, api, cores, rounds)
            progress("measuring nginx")
            latencies, rate = latency(hanko, api, cores, rounds)
    print(f"\nMachine: {description()}. The servers on one core, the load generator on the other; RSA 4096; medians of {rounds} rounds.\n")
    print(table(["", "requests/s on one core"], rates))
    print(f"\n`/forward-auth` reaches {ratio:.2f} of the rate of `/protected`; at least {LEAST_RATIO} is required.\n")
    print(table(["", "requests/s at most", f"p50 at {count(rate)}/s, µs", "p99, µs"], latencies))
    return 0 if ratio >= LEAST_RATIO else 1


main(program)
