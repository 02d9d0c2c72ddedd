"""The servers around the proxies: a Hanko that signs tokens, the guarded site, and a sign-in page."""

import base64
import hashlib
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.parse
import uuid

WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"error: {what} took longer than {seconds} s")
        time.sleep(0.02)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Server(http.server.ThreadingHTTPServer):
    """Serves on a free port of loopback until the program ends."""

    daemon_threads = True

    def handle_error(self, *_):
        """A proxy may close a connection at any time."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Hanko:
    """Issues session tokens as Hanko does, serves the key that verifies them, and reports each of its sessions as active."""

    def __init__(self, folder):
        self.key = folder / "key.pem"
        subprocess.run(
            ["openssl", "genrsa", "-out", self.key, "2048"], check=True, stderr=subprocess.DEVNULL
        )
        modulus = subprocess.run(
            ["openssl", "rsa", "-in", self.key, "-noout", "-modulus"], check=True, capture_output=True, text=True
        ).stdout.strip().split("=")[1]
        self.kid = str(uuid.uuid4())
        jwk = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": self.kid,
               "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
        key_set = json.dumps({"keys": [jwk]}).encode()

        class Keys(Handler):
            def do_GET(self):
                self.reply(key_set, "application/json")

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                payload = body["session_token"].split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
                ends_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims["exp"]))
                response = {"is_valid": True, "user_id": claims["sub"], "expiration_time": ends_at,
                            "claims": {"subject": claims["sub"], "session_id": claims["session_id"], "expiration": ends_at}}
                self.reply(json.dumps(response).encode(), "application/json")

        self.url = f"http://127.0.0.1:{Server(Keys).port}"

    def sign_in(self, **claims):
        """Returns a session with these claims in its token, besides the usual ones."""
        now = int(time.time())
        claims = {"sub": str(uuid.uuid4()), "session_id": str(uuid.uuid4()), "iat": now, "exp": now + 3600,
                  "aud": ["localhost"], **claims}
        header = {"alg": "RS256", "kid": self.kid, "typ": "JWT"}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=signed.encode(), check=True, capture_output=True
        ).stdout
        return Session(f"{signed}.{base64url(signature)}", claims)


class Session:
    def __init__(self, token, claims):
        self.user_id, self.session_id = claims["sub"], claims["session_id"]
        self.token = token
        self.bearer = [("Authorization", f"Bearer {token}")]
        self.cookie = [("Cookie", f"theme=dark; hanko={token}")]


class Site:
    """The guarded site: echoes each request, so that a test sees which requests and fields a proxy passes on."""

    PAGE = b"<!DOCTYPE html><title>Site</title><h1>The guarded page</h1>"

    def __init__(self):
        self.requests = []
        site = self

        class Echo(Handler):
            def serve(self):
                length = self.read_body()
                site.requests.append(self.path)
                if "Upgrade" in self.headers:
                    self.upgrade()
                elif self.path.startswith("/site/"):
                    self.reply(site.PAGE, "text/html")
                else:
                    seen = {"method": self.command, "path": self.path, "length": length,
                            "headers": [[name.lower(), value] for name, value in self.headers.items()]}
                    self.reply(json.dumps(seen).encode(), "application/json")

            def read_body(self):
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                total = 0
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    total += len(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return total

            def upgrade(self):
                """Opens a WebSocket (RFC 6455), or switches to any other protocol, and sends back every byte."""
                key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                self.send_response(101)
                self.send_header("Upgrade", self.headers["Upgrade"])
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
                self.end_headers()
                self.close_connection = True
                while data := self.rfile.read1(1024):
                    self.wfile.write(data)

            do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = serve

        self.port = Server(Echo).port


class Recorder:
    """Replaces poem-hanko: allows every request and records the fields that a proxy sends."""

    def __init__(self):
        self.requests = []
        recorder = self

        class Allow(Handler):
            def allow(self):
                recorder.requests.append({name.lower(): value for name, value in self.headers.items()})
                self.reply(b"", "text/plain")

            do_GET = do_POST = allow

        self.port = Server(Allow).port


class SignInPage:
    """Signs a user in as a page with Hanko's frontend SDK does: the cookie is set by a script, for the whole host."""

    def __init__(self, session):
        self.requests = []
        page = self

        class Page(Handler):
            def do_GET(self):
                page.requests.append(self.path)
                script = (
                    f"document.cookie = 'hanko={session.token}; path=/; SameSite=Lax';"
                    "location.replace(new URLSearchParams(location.search).get('redirect_to'));"
                )
                self.reply(f"<!DOCTYPE html><script>{script}</script>".encode(), "text/html")

        self.url = f"http://localhost:{Server(Page).port}/sign-in"

    def redirect_to(self, location):
        """Returns the URL to which this page redirects back if it is opened at `location`."""
        base, _, query = location.partition("?")
        if base != self.url:
            return None
        return dict(urllib.parse.parse_qsl(query, strict_parsing=True)).get("redirect_to")
