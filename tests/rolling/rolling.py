"""Restarts two instances in turn behind nginx while clients send POSTs. Run it by tests/rolling/run."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

CLIENTS = 16
SLICE_SECONDS = 20

NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 10000000;
  upstream both {{ server 127.0.0.1:{a}; server 127.0.0.1:{b}; keepalive 32; }}
  upstream only_a {{ server 127.0.0.1:{a}; keepalive 32; }}
  upstream only_b {{ server 127.0.0.1:{b}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      # A file takes an instance out: a reload would close client connections.
      set $target both;
      if (-f {folder}/out-0) {{ set $target only_b; }}
      if (-f {folder}/out-1) {{ set $target only_a; }}
      proxy_pass http://$target;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def wait_until(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"error: {what} took longer than {seconds} s")
        time.sleep(0.02)


class Instance:
    def __init__(self, binary, folder, number, hanko_url):
        self.binary, self.out, self.port = binary, folder / f"out-{number}", free_port()
        self.log = folder / f"instance-{number}.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HANKO_API_URL": hanko_url,
            "PORT": str(self.port),
            "SHUTDOWN_DELAY": "2s",
            "RUST_LOG": "warn",
        }
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve"], env=self.environment, cwd=self.log.parent, stdout=log, stderr=log
            )
        wait_until(lambda: is_ready(self.port), "an instance")

    def restart(self):
        self.process.send_signal(signal.SIGTERM)
        # nginx takes the instance out once it is no longer ready.
        wait_until(lambda: not is_ready(self.port), "the end of readiness")
        self.out.touch()
        code = self.process.wait(timeout=30)
        if code != 0:
            sys.exit(f"error: an instance ended with code {code}: {self.log.read_text()}")
        self.start()
        self.out.unlink()
        time.sleep(0.5)


def hanko_url(binary, folder):
    """Starts `dev`, and returns its process and the URL of its local Hanko."""
    environment = {"PATH": os.environ["PATH"], "PORT": "0"}
    process = subprocess.Popen(
        [binary, "dev"], env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        found = re.match(r"Local Hanko +(\S+)", line.strip())
        if found:
            return process, found.group(1)
    sys.exit("error: `dev` prints no URL of a local Hanko")


def main():
    binary, wanted = os.path.abspath(sys.argv[1]), int(sys.argv[2])
    here = pathlib.Path(__file__).parent.resolve()
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            dev, url = hanko_url(binary, folder)
            processes.append(dev)
            instances = [Instance(binary, folder, number, url) for number in range(2)]
            processes += [instance.process for instance in instances]
            port = free_port()
            config = folder / "nginx.conf"
            config.write_text(
                NGINX.format(
                    # Otherwise its workers change to a user that cannot read the folder.
                    user="user root;" if os.geteuid() == 0 else "",
                    folder=folder, port=port, a=instances[0].port, b=instances[1].port)
            )
            nginx = subprocess.Popen(["/usr/sbin/nginx", "-c", config, "-e", folder / "error.log"])
            processes.append(nginx)
            wait_until(lambda: is_ready(port), "nginx")

            requests = failures = restarts = 0
            while requests < wanted:
                load = subprocess.Popen(
                    ["wrk", "-t1", f"-c{CLIENTS}", f"-d{SLICE_SECONDS}s", "-s", here / "post.lua",
                     f"http://127.0.0.1:{port}/webhooks/hanko"],
                    stdout=subprocess.PIPE, text=True,
                )
                processes.append(load)
                time.sleep(1)
                while load.poll() is None:
                    instance = instances[restarts % 2]
                    instance.restart()
                    processes.append(instance.process)
                    restarts += 1
                output = load.stdout.read()
                counts = re.search(
                    r"requests (\d+) lost (\d+) connect (\d+) read (\d+) write (\d+) timeout (\d+)", output
                )
                if not counts:
                    sys.exit(f"error: wrk printed {output}")
                done, *bad = map(int, counts.groups())
                requests += done
                failures += sum(bad)
                print(f"{requests} requests, {restarts} restarts, {failures} lost", flush=True)
            if failures:
                print((folder / "error.log").read_text()[-3000:], file=sys.stderr)
                sys.exit(f"error: {failures} requests were lost")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()


main()
