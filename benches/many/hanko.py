"""A Hanko for benchmarks that serves a given JWK Set, and for which the sessions of the first ACTIVE tokens are active and all others
have ended. `hanko.py FOLDER ACTIVE` prints its URL. The local Hanko of the crate would have to sign the tokens itself, each time."""

import asyncio
import base64
import json
import pathlib
import re
import sys


def claims_of(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


class Hanko(asyncio.Protocol):
    jwks = b""
    active = set()

    def connection_made(self, transport):
        self.transport = transport
        self.received = b""

    def data_received(self, data):
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, rest = self.received.split(b"\r\n\r\n", 1)
            length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
            length = int(length[1]) if length else 0
            if len(rest) < length:
                return
            self.received = rest[length:]
            self.transport.write(self.response(head, rest[:length]))

    def response(self, head, body):
        if head.startswith(b"GET /.well-known/jwks.json "):
            return self.ok(self.jwks)
        if head.startswith(b"POST /sessions/validate "):
            session = claims_of(json.loads(body)["session_token"])["session_id"]
            if session in self.active:
                return self.ok(json.dumps({"is_valid": True, "claims": {"session_id": session}}).encode())
            return self.ok(b'{"is_valid":false}')
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

    def ok(self, body):
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def main():
    folder, active = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    Hanko.jwks = (folder / "jwks.json").read_bytes()
    with (folder / "tokens").open() as lines:
        Hanko.active = {claims_of(line)["session_id"] for line, _ in zip(lines, range(active))}
    server = await asyncio.get_running_loop().create_server(Hanko, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
