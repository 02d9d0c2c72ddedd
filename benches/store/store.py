"""Starts a redis-server on loopback, writes revocations as the service does, and prints what they cost.

Costs are the CPU time of the server (`INFO cpu`), which other load on the machine changes little.
"""

import argparse
import socket
import subprocess
import tempfile
import threading
import time
import uuid

PREFIX = "poem-hanko:revoked"
UNTIL = int(time.time()) + 86_400


def request(*words):
    """Returns a command in Redis' protocol."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Connection:
    """A connection that understands the kinds of replies that these commands get."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def reply(self):
        line = self.file.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def tell(self, *words):
        self.socket.sendall(request(*words))
        return self.reply()

    def info(self, section, name):
        lines = self.tell("INFO", section).decode().splitlines()
        return float(dict(line.split(":", 1) for line in lines if ":" in line)[name])

    def cpu(self):
        return self.info("cpu", "used_cpu_user") + self.info("cpu", "used_cpu_sys")


def session():
    return f"{PREFIX}:session:{uuid.uuid4()}:{UNTIL}"


def user():
    return f"{PREFIX}:user:{uuid.uuid4()}:253402300799:{UNTIL}"


def write(connection, keys, batch):
    """Writes and publishes revocations, `batch` of them in a transaction."""
    for start in range(0, len(keys), batch):
        part = keys[start : start + batch]
        commands = [request("MULTI")]
        for key in part:
            commands += [request("SET", key, "", "EXAT", UNTIL), request("PUBLISH", PREFIX, key)]
        connection.socket.sendall(b"".join([*commands, request("EXEC")]))
        for _ in range(2 * len(part) + 2):
            connection.reply()


def discard(port, subscribers, stop):
    """Subscribes, and discards the messages until `stop` is set."""
    import selectors

    selector = selectors.DefaultSelector()
    for _ in range(subscribers):
        subscriber = Connection(port)
        subscriber.tell("SUBSCRIBE", PREFIX)
        subscriber.socket.setblocking(False)
        selector.register(subscriber.socket, selectors.EVENT_READ)
    stop.ready.set()
    while not stop.is_set():
        for key, _ in selector.select(0.05):
            try:
                key.fileobj.recv(1 << 20)
            except BlockingIOError:
                pass


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keys", type=int, default=200_000)
    arguments.add_argument("--messages", type=int, default=2_000)
    arguments = arguments.parse_args()

    with socket.socket() as vacant:
        vacant.bind(("127.0.0.1", 0))
        port = vacant.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            measure(port, arguments)
        finally:
            server.kill()
            server.wait()


def connect(port):
    for _ in range(500):
        try:
            return Connection(port)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise SystemExit("redis-server does not listen")


def measure(port, arguments):
    connection = connect(port)
    for name, make in [("a session", session), ("a user", user)]:
        connection.tell("FLUSHALL")
        empty = connection.info("memory", "used_memory")
        keys = [make() for _ in range(arguments.keys)]
        before = connection.cpu()
        write(connection, keys, 1000)
        cpu = connection.cpu() - before
        usage = connection.tell("MEMORY", "USAGE", keys[0])
        each = (connection.info("memory", "used_memory") - empty) / len(keys)
        print(f"bytes for {name}: {usage} by MEMORY USAGE, {each:.0f} of used_memory at {len(keys):,} keys")
        print(f"write in transactions of 1,000: {cpu / len(keys) * 1e6:.1f} µs of CPU each")
    before, cursor = connection.cpu(), b"0"
    while True:
        cursor, _ = connection.tell("SCAN", cursor.decode(), "MATCH", f"{PREFIX}:*", "COUNT", 1000)
        if cursor == b"0":
            break
    print(f"scan: {(connection.cpu() - before) / arguments.keys * 1e6:.2f} µs of CPU per key")
    for subscribers in [0, 10, 100, 1000]:
        connection.tell("FLUSHALL")
        stop = threading.Event()
        stop.ready = threading.Event()
        reader = threading.Thread(target=discard, args=(port, subscribers, stop))
        reader.start()
        stop.ready.wait()
        keys = [session() for _ in range(arguments.messages)]
        before = connection.cpu()
        write(connection, keys, 1)
        cpu = (connection.cpu() - before) / len(keys) * 1e6
        stop.set()
        reader.join()
        each = f", {(cpu - alone) / subscribers:.2f} µs per delivery" if subscribers else ""
        alone = cpu if subscribers == 0 else alone
        print(f"write of one revocation, {subscribers:,} subscribers: {cpu:.0f} µs of CPU{each}")


if __name__ == "__main__":
    main()
