"""Runs each proxy with its files of deploy/ in front of an echo upstream. Run it by tests/proxies/run [PROXY...]."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

from world import WEBSOCKET_KEY, Hanko, Recorder, SignInPage, Site, accepts, free_port, wait_until

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
EVIL = "https://evil.example"
IDENTITY = ["x-hanko-user-id", "x-hanko-session-id", "x-hanko-email", "x-hanko-email-verified"]
FORGED = [
    ("X-Hanko-User-Id", "forged"),
    ("X-Hanko-Session-Id", "forged"),
    ("X-Hanko-Email", "forged@example.com"),
    ("X-Hanko-Email-Verified", "true"),
    ("x-hanko-email", "forged-twice@example.com"),
    # WSGI, CGI and others treat these as the same fields.
    ("X_Hanko_User_Id", "forged"),
    ("X-Hanko_Email", "forged@example.com"),
]


def navigation_fields():
    return [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-Site", "none")]


# How each proxy is started: its files, and the replacements in them, such as the ports of the test.
class Proxy:
    normalizes_paths = False
    # Whether an unsafe request with a cookie and neither Origin nor Sec-Fetch-Site passes.
    passes_cookie_without_origin = True
    has_requirements = True
    passes_retry_after = True
    rejects_before_the_body = True

    def __init__(self, programs):
        self.programs = programs


class Nginx(Proxy):
    name, files = "nginx", ["nginx/nginx.conf"]

    def replacements(self, folder):
        # Otherwise its workers change to a user that cannot read the folder.
        user = "user root;\n" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return [
            ("events {}", f"{user}daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"),
            ("http {\n", f"http {{ access_log {folder}/access.log; {temporary}\n"),
            ("listen 8080", "listen 127.0.0.1:8080"),
        ]

    def command(self, folder):
        return ["/usr/sbin/nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"]


class Traefik(Proxy):
    name, files = "Traefik", ["traefik/traefik.yaml", "traefik/dynamic.yaml"]

    def replacements(self, folder):
        return [("deploy/traefik/dynamic.yaml", f"{folder}/dynamic.yaml"), ('":8080"', '"127.0.0.1:8080"')]

    def command(self, folder):
        return [self.programs / "traefik", f"--configFile={folder}/traefik.yaml"]


class Caddy(Proxy):
    name, files = "Caddy", ["caddy/Caddyfile"]
    # It waits for the whole body of the client, although it does not send the body to poem-hanko.
    rejects_before_the_body = False

    def replacements(self, folder):
        return [("admin off", "admin off\n\tdefault_bind 127.0.0.1")]

    def command(self, folder):
        return [self.programs / "caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


class Envoy(Proxy):
    name, files = "Envoy", ["envoy/envoy.yaml"]
    passes_cookie_without_origin = False
    has_requirements = False
    normalizes_paths = True
    passes_retry_after = False

    def replacements(self, folder):
        return [("0.0.0.0", "127.0.0.1")]

    def command(self, folder):
        # Other instances of Envoy may run, so this one needs its own base id.
        return [self.programs / "envoy", "-c", folder / "envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1"]


class Running:
    """A running proxy, and a client of it."""

    def __init__(self, world, proxy, variant, auth_port, more_replacements=()):
        self.proxy, self.port = proxy, free_port()
        folder = world.folder / f"{proxy.name}-{variant}".lower()
        folder.mkdir()
        replacements = [
            *proxy.replacements(folder),
            ("8080", str(self.port)),
            ("127.0.0.1:8000", f"127.0.0.1:{auth_port}"),
            ("127.0.0.1, port_value: 8000", f"127.0.0.1, port_value: {auth_port}"),
            ("127.0.0.1:3000", f"127.0.0.1:{world.site.port}"),
            ("127.0.0.1, port_value: 3000", f"127.0.0.1, port_value: {world.site.port}"),
            *more_replacements,
        ]
        unused = {old for old, _ in replacements}
        for file in proxy.files:
            text = (DEPLOY / file).read_text()
            for old, new in replacements:
                if old in text:
                    unused.discard(old)
                    text = text.replace(old, new)
            (folder / pathlib.Path(file).name).write_text(text)
        unused = {old for old in unused if "port_value" not in old}
        if unused:
            sys.exit(f"error: the files of {proxy.name} lack {unused}")
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                proxy.command(folder), cwd=folder, stdout=output, stderr=output,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )
        world.processes.append(self.process)
        wait_until(lambda: accepts(self.port) or self.process.poll() is not None, proxy.name)
        if self.process.poll() is not None:
            sys.exit(f"error: {proxy.name} ended: {(folder / 'output').read_text()}")
        # Traefik accepts connections before it has read its routes.
        wait_until(lambda: self.send("GET", "/")[0] != 404, proxy.name)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    def send(self, method, path, *headers, body=None, client="127.0.0.1"):
        """Returns the status, the fields (with names in lower case) and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(client, 0))
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in [field for fields in headers for field in fields]:
                connection.putheader(name, value)
            is_chunked = isinstance(body, list)
            if is_chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body, encode_chunked=is_chunked)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, response.read()
        finally:
            connection.close()

    def raw(self, head, body=b"", and_then=b""):
        """Sends a request and returns the status; after an upgrade, also sends `and_then` and returns the bytes received."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
            received = b""
            while b"\r\n\r\n" not in received:
                data = connection.recv(65536)
                if not data:
                    break
                received += data
            head, _, rest = received.partition(b"\r\n\r\n")
            status = int(head.split()[1]) if head else None
            if status == 101:
                connection.sendall(and_then)
                while len(rest) < len(and_then):
                    data = connection.recv(65536)
                    if not data:
                        break
                    rest += data
            return status, rest

    def open_websocket(self, *headers):
        """Returns the status, and whether a frame came back."""
        head = ["GET /socket HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: Upgrade", "Upgrade: websocket",
                f"Sec-WebSocket-Key: {WEBSOCKET_KEY}", "Sec-WebSocket-Version: 13",
                *(f"{name}: {value}" for fields in headers for name, value in fields)]
        frame = b"\x82\x05hello"
        status, rest = self.raw(head, and_then=frame)
        return status, rest == frame


class World:
    def __init__(self, binary, programs, folder):
        self.binary, self.programs, self.folder, self.processes = binary, programs, folder, []
        self.hanko = Hanko(folder)
        self.site = Site()
        self.ada = self.hanko.sign_in(email={"address": "ada@example.com", "is_primary": True, "is_verified": True})
        self.bob = self.hanko.sign_in(email={"address": "bob@example.com", "is_primary": True, "is_verified": False})
        self.nobody = self.hanko.sign_in()
        self.long = self.hanko.sign_in(note="x" * 11_000)
        self.page = SignInPage(self.ada)
        self.auth = self.serve("auth", HANKO_API_URL=self.hanko.url, SIGN_IN_URL=self.page.url, ACCESS_LOG="true",
                               TRUSTED_PROXIES="127.0.0.1/32")
        # Nothing listens on this port, so this instance has no keys.
        self.without_keys = self.serve("auth-without-keys", HANKO_API_URL=f"http://127.0.0.1:{free_port()}")

    def serve(self, name, **variables):
        """Starts `poem-hanko serve` and returns its port."""
        port = free_port()
        folder = self.folder / name
        folder.mkdir()
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [self.binary, "serve"], cwd=folder, stdout=output, stderr=output,
                env={"PATH": os.environ["PATH"], "PORT": str(port), "LOG_FORMAT": "json", **variables},
            )
        self.processes.append(process)
        wait_until(lambda: accepts(port) or process.poll() is not None, "poem-hanko")
        if process.poll() is not None:
            sys.exit(f"error: poem-hanko ended: {(folder / 'output').read_text()}")
        return port

    def access(self, request_id):
        """Returns the line of a request in the access log."""
        lines = (self.folder / "auth/output").read_text().splitlines()
        found = (json.loads(line) for line in lines if request_id in line)
        return next((line for line in found if line["event"] == "access"), None)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


class Cases:
    """Counts the cases of one proxy and prints those that fail."""

    def __init__(self, proxy, site):
        self.proxy, self.site, self.count, self.failures = proxy, site, 0, 0

    def check(self, name, holds, seen):
        self.count += 1
        if not holds:
            self.failures += 1
            print(f"FAILED {self.proxy.name}: {name}: {str(seen)[:500]}", flush=True)

    def is_rejected(self, name, send, *statuses):
        """Checks that the response has one of the statuses and that the site received no request."""
        before = len(self.site.requests)
        response = send()
        self.check(name, response[0] in statuses and len(self.site.requests) == before, response)
        return response

    def passes(self, name, send):
        """Checks that the response is that of the site."""
        before = len(self.site.requests)
        status, fields, body = send()
        self.check(name, status == 200 and len(self.site.requests) == before + 1, (status, fields, body))
        try:
            return json.loads(body)
        except ValueError:
            return {"headers": []}


def check_sessions(cases, running, world):
    send, ada = running.send, world.ada
    response = cases.is_rejected("no credentials", lambda: send("GET", "/page"), 401)
    cases.check("a challenge reaches the client", response[1].get("www-authenticate", "").startswith("Bearer"), response)
    cases.is_rejected("an unverifiable token", lambda: send("GET", "/page", [("Authorization", "Bearer a.b.c")]), 401)
    cases.is_rejected("a bad Bearer token beside a good cookie",
                      lambda: send("GET", "/page", [("Authorization", "Bearer a.b.c")], ada.cookie), 401)
    cases.is_rejected("two Authorization fields", lambda: send("GET", "/page", ada.bearer, ada.bearer), 400, 401, 403)
    for kind, credentials in (("Bearer", ada.bearer), ("cookie", ada.cookie)):
        seen = cases.passes(f"GET by {kind}", lambda: send("GET", "/page", credentials))
        identity = [dict(seen["headers"]).get(name) for name in IDENTITY]
        cases.check(f"the identity by {kind}",
                    identity == [ada.user_id, ada.session_id, "ada@example.com", "true"], identity)
    status, _, _ = send("HEAD", "/page", ada.cookie)
    cases.check("HEAD by cookie", status == 200, status)
    # A field that the client names as hop-by-hop may be removed after the proxy has set it.
    removal = [("Connection", "keep-alive, X-Hanko-User-Id, x-hanko-email")]
    status, _, body = send("GET", "/page", removal, ada.bearer)
    identity = dict(json.loads(body)["headers"]).get("x-hanko-user-id") if status == 200 else None
    cases.check("the client cannot remove the identity", status == 400 or identity == ada.user_id, (status, body))
    cases.passes("a token of 15 KiB", lambda: send("GET", "/page", world.long.cookie))


def check_log(cases, running, world):
    forged = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9")]
    response = cases.is_rejected("a rejection",
                                 lambda: running.send("GET", "/page", forged, client="127.0.0.2"), 401)
    request_id = response[1].get("x-request-id", "")
    cases.check("its X-Request-Id reaches the client", request_id, response)
    if request_id:
        wait_until(lambda: world.access(request_id), "the access log")
        line = world.access(request_id)
        cases.check("the log names the client", (line["client"], line["status"]) == ("127.0.0.2", 401), line)


def check_cross_site(cases, running, world):
    send, ada, own = running.send, world.ada, running.origin
    post = lambda *headers: lambda: send("POST", "/page", *headers, body=b"x=1")
    cross = ("Sec-Fetch-Site", "cross-site")
    cases.is_rejected("cross-site cookie POST", post(ada.cookie, [cross, ("Origin", EVIL)]), 403)
    cases.is_rejected("cookie POST with another Origin only", post(ada.cookie, [("Origin", EVIL)]), 403)
    cases.is_rejected("cookie POST with Sec-Fetch-Site only", post(ada.cookie, [cross]), 403)
    cases.is_rejected("cookie POST of a sandboxed page", post(ada.cookie, [("Origin", "null")]), 403)
    cases.is_rejected("cookie POST that claims to be a GET",
                      post(ada.cookie, [cross, ("Origin", EVIL), ("X-Forwarded-Method", "GET"),
                                        ("X-Original-Method", "GET"), ("X-HTTP-Method-Override", "GET")]), 403)
    cases.is_rejected("cookie POST with a forged X-Forwarded-Host",
                      post(ada.cookie, [("Origin", EVIL), ("X-Forwarded-Host", "evil.example"),
                                        ("X-Forwarded-Proto", "https")]), 403)
    cases.passes("same-origin cookie POST", post(ada.cookie, [("Sec-Fetch-Site", "same-origin"), ("Origin", own)]))
    cases.passes("cookie POST with the site's own Origin only", post(ada.cookie, [("Origin", own)]))
    if running.proxy.passes_cookie_without_origin:
        cases.passes("cookie POST of a program", post(ada.cookie))
    else:
        cases.is_rejected("cookie POST with neither Origin nor Sec-Fetch-Site", post(ada.cookie), 403)
    cases.passes("cross-site Bearer POST", post(ada.bearer, [cross, ("Origin", EVIL)]))
    cases.passes("cross-site cookie GET", lambda: send("GET", "/page", ada.cookie, [cross]))
    preflight = [("Origin", EVIL), ("Access-Control-Request-Method", "POST"),
                 ("Access-Control-Request-Headers", "content-type")]
    cases.is_rejected("OPTIONS without credentials", lambda: send("OPTIONS", "/page", preflight, FORGED), 401)
    cases.is_rejected("OPTIONS of an own page", lambda: send("OPTIONS", "/page", [("Origin", own)], FORGED), 401)


def check_forged_identity(cases, running, world):
    send = running.send
    cases.is_rejected("forged identity without credentials", lambda: send("GET", "/page", FORGED), 401)
    for who, session, expected in (
        ("a user", world.ada, [world.ada.user_id, world.ada.session_id, "ada@example.com", "true"]),
        ("a user with an unverified e-mail address", world.bob,
         [world.bob.user_id, world.bob.session_id, "bob@example.com", "false"]),
        ("a user without an e-mail address", world.nobody, [world.nobody.user_id, world.nobody.session_id, "", "false"]),
    ):
        seen = cases.passes(f"forged identity of {who}", lambda: send("GET", "/page", FORGED, session.bearer))
        # As a CGI program sees them; an empty field counts as absent.
        fields = [(name.replace("_", "-"), value) for name, value in seen["headers"] if value]
        identity = [[value for name, value in fields if name == wanted] for wanted in IDENTITY]
        wanted = [[value] if value else [] for value in expected]
        if not expected[2]:
            identity[3] = identity[3] or ["false"]
        cases.check(f"the identity of {who}", identity == wanted, fields)
        cases.check(f"nothing of {who} is forged", not any("forged" in value for _, value in fields), fields)


def check_paths(cases, running, world):
    send, bob = running.send, world.bob
    query = "/page?verified_email&max_age=0&claim=role:admin&unknown"
    seen = cases.passes("a page with a query", lambda: send("GET", query, bob.cookie))
    cases.check("the site gets the query", seen.get("path") == query, seen)
    for path in ("/", "//x", "/%zz", "/..", "/../protected", "/%2e%2e/x", "/%2f..%2f..", "/livez", "/forward-auth",
                 "/forward-auth/x", "/_hanko", "/docs", "/;x", "/a%00b", "/%C3%A9", "/a#b"):
        cases.is_rejected(f"{path} without credentials", lambda: send("GET", path, FORGED), 400, 401, 403, 404)
        before = len(world.site.requests)
        status, fields, body = send("GET", path, bob.bearer)
        reached = len(world.site.requests) == before + 1
        # A proxy may reject a malformed path. Otherwise the response comes from the site.
        cases.check(f"{path} with a token", (status == 200) == reached and status in (200, 400, 404), (status, body))
    if running.proxy.normalizes_paths:
        seen = cases.passes("/a/..//b with a token", lambda: send("GET", "/a/..//b", bob.bearer))
        cases.check("the site gets /b", seen.get("path") == "/b", seen)
    cases.passes("/ with a token", lambda: send("GET", "/", bob.bearer))


def check_streams(cases, running, world):
    ada = world.ada
    cases.check("WebSocket by Bearer", running.open_websocket(ada.bearer) == (101, True), "")
    opened = running.open_websocket(ada.cookie, [("Origin", running.origin), ("Sec-Fetch-Site", "same-origin")])
    cases.check("WebSocket of an own page", opened == (101, True), opened)
    cases.is_rejected("WebSocket without credentials", lambda: running.open_websocket(FORGED), 401)
    cases.is_rejected("WebSocket of another site", lambda: running.open_websocket(ada.cookie, [("Origin", EVIL)]), 403)

    # Requests inside HTTP/2 would pass unguarded.
    head = ["GET /socket HTTP/1.1", f"Host: 127.0.0.1:{running.port}", "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", f"{ada.bearer[0][0]}: {ada.bearer[0][1]}"]
    status, _ = running.raw(head)
    cases.check("no upgrade to HTTP/2", status != 101, status)

    # More than the 256 KiB that poem-hanko reads.
    body = b"x" * 900_000
    seen = cases.passes("a large body", lambda: running.send("POST", "/upload", ada.bearer, body=body))
    cases.check("the site gets all of it", seen.get("length") == len(body), seen)
    seen = cases.passes("a chunked body", lambda: running.send("POST", "/upload", ada.bearer, body=[body[:400_000]] * 2))
    cases.check("the site gets all chunks", seen.get("length") == 800_000, seen)
    head = ["POST /upload HTTP/1.1", f"Host: 127.0.0.1:{running.port}", "Content-Length: 500000"]
    if running.proxy.rejects_before_the_body:
        cases.is_rejected("a body that is never sent", lambda: running.raw(head), 401)
    else:
        cases.is_rejected("a large body without credentials", lambda: running.raw(head, body=b"x" * 500_000), 401)


def check_sign_in(cases, running, world):
    send, page = running.send, world.page
    path = "/site/page.html?x=1&y=%26%C3%A9"
    response = cases.is_rejected("a navigation", lambda: send("GET", path, navigation_fields()), 302)
    location = response[1].get("location", "")
    cases.check("it leads back to the page", page.redirect_to(location) == running.origin + path, location)
    forged = [("X-Forwarded-Uri", "/elsewhere"), ("X-Original-URI", "/elsewhere"), ("X-Forwarded-Method", "POST"),
              ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https"), ("Forwarded", "host=evil.example")]
    response = cases.is_rejected("a navigation with forged fields", lambda: send("GET", path, navigation_fields(), forged), 302)
    location = response[1].get("location", "")
    cases.check("it also leads back to the page", page.redirect_to(location) == running.origin + path, location)
    cases.is_rejected("a navigation with a bad token",
                      lambda: send("GET", "/site/", navigation_fields(), [("Cookie", "hanko=a.b.c")]), 302)
    response = cases.is_rejected("a fetch of a script",
                                 lambda: send("GET", path, [("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")]), 401)
    cases.check("it is not redirected", "location" not in response[1], response)
    cases.is_rejected("a form", lambda: send("POST", path, navigation_fields(), body=b""), 401)
    response = send("GET", path, navigation_fields(), world.ada.cookie)
    cases.check("a navigation with a session", response[0] == 200 and response[2] == world.site.PAGE, response)

    visits = len(page.requests)
    with tempfile.TemporaryDirectory() as profile:
        dom = subprocess.run(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
             "--virtual-time-budget=10000", "--dump-dom", f"http://localhost:{running.port}{path}"],
            capture_output=True, text=True, timeout=60,
        ).stdout
    cases.check("a browser signs in and comes back", "The guarded page" in dom, dom)
    back = [page.redirect_to(page.url.partition("/sign-in")[0] + visit) for visit in page.requests[visits:]]
    cases.check("it signs in once", back == [f"http://localhost:{running.port}{path}"], back)


def check_without_keys(cases, running, world):
    response = cases.is_rejected("a token without keys", lambda: running.send("GET", "/page", world.ada.bearer), 503)
    if running.proxy.passes_retry_after:
        cases.check("Retry-After reaches the client", int(response[1].get("retry-after", 0)) > 0, response)
    cases.is_rejected("no credentials without keys", lambda: running.send("GET", "/page"), 401)


def check_what_is_sent(cases, running, recorder):
    for name, body in (("a body", b"x" * 900_000), ("a chunked body", [b"x" * 900_000])):
        recorder.requests.clear()
        cases.passes(f"{name} to a recorder", lambda: running.send("POST", "/upload", body=body))
        sent = [(fields.get("content-length", "0"), fields.get("transfer-encoding")) for fields in recorder.requests]
        cases.check(f"{name} is not sent to poem-hanko", sent == [("0", None)], sent)


def check_requirement(cases, running, world):
    cases.passes("a verified e-mail address", lambda: running.send("GET", "/page?x", world.ada.bearer))
    cases.is_rejected("an unverified e-mail address", lambda: running.send("GET", "/page?x", world.bob.bearer), 403)
    cases.is_rejected("no e-mail address", lambda: running.send("GET", "/page", world.nobody.bearer), 403)


def check_static_site(cases, world, proxy):
    """Checks a site of static files, as shown in docs/forward-auth.md."""
    folder = world.folder / "www"
    folder.mkdir()
    (folder / "page.html").write_text("a page")
    running = Running(world, proxy, "static", world.auth, [("proxy_pass http://site;", f"root {folder};")])
    cases.is_rejected("a file without credentials", lambda: running.send("GET", "/page.html"), 401)
    response = running.send("GET", "/page.html", world.ada.cookie)
    cases.check("a file with a session", response[0] == 200 and response[2] == b"a page", response)
    running.stop()


def run(world, proxy):
    cases = Cases(proxy, world.site)
    running = Running(world, proxy, "main", world.auth)
    for check in (check_sessions, check_log, check_cross_site, check_forged_identity, check_paths, check_streams, check_sign_in):
        check(cases, running, world)
    running.stop()

    running = Running(world, proxy, "without-keys", world.without_keys)
    check_without_keys(cases, running, world)
    running.stop()

    recorder = Recorder()
    running = Running(world, proxy, "recorder", recorder.port)
    check_what_is_sent(cases, running, recorder)
    running.stop()

    running = Running(world, proxy, "without-auth", free_port())
    cases.is_rejected("poem-hanko down", lambda: running.send("GET", "/page", world.ada.bearer), 500, 502, 503)
    running.stop()

    if proxy.has_requirements:
        old = "/forward-auth?" if proxy.name == "Caddy" else "/forward-auth"
        running = Running(world, proxy, "requirement", world.auth, [(old, "/forward-auth?verified_email")])
        check_requirement(cases, running, world)
        running.stop()

    if proxy.name == "nginx":
        check_static_site(cases, world, proxy)
    print(f"{proxy.name}: {cases.count} cases, {cases.failures} failed", flush=True)
    return cases.failures


def main():
    binary, programs, target = (pathlib.Path(path).resolve() for path in sys.argv[1:4])
    wanted = {name.lower() for name in sys.argv[4:]}
    with tempfile.TemporaryDirectory(dir=target) as folder:
        world = World(binary, programs, pathlib.Path(folder))
        try:
            proxies = [kind(programs) for kind in (Nginx, Traefik, Caddy, Envoy)]
            failures = sum(run(world, proxy) for proxy in proxies if not wanted or proxy.name.lower() in wanted)
            logs = "".join(path.read_text(errors="replace") for path in world.folder.glob("auth*/output"))
            if "panic" in logs or any(session.token in logs for session in (world.ada, world.bob, world.nobody)):
                sys.exit(f"error: poem-hanko logged a token or a panic: {logs}")
        finally:
            world.stop()
    if failures:
        sys.exit(f"error: {failures} cases failed")


main()
