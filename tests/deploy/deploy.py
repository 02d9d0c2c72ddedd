"""Checks the files of deploy/. Run it by tests/deploy/run."""

import argparse
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml
from compose_spec import PyCompose

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = pathlib.Path(sys.executable).parent
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def fail(message):
    sys.exit(f"error: {message}")


def require(condition, message):
    if not condition:
        fail(message)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    output = done.stdout + done.stderr
    require(done.returncode == 0, f"{shlex.join(map(str, command))}: {output}")
    return output


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < end, f"{what} took longer than {seconds} s")
        time.sleep(0.02)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def accepts_variables(binary, variables, where):
    """Requires that `check` finds no error in the variables and that all of them are documented."""
    closed = free_port()
    replaced = {"HANKO_API_URL": f"http://127.0.0.1:{closed}", "JWKS_TIMEOUT": "1s"}
    if "REVOCATION_STORE_URL" in variables:
        replaced["REVOCATION_STORE_URL"] = f"redis://127.0.0.1:{closed}"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [binary, "check"], cwd=folder, env={**variables, **replaced}, capture_output=True, text=True, timeout=60
        )
    output = done.stdout + done.stderr
    # 1, since nothing listens there; 2 would be an error in the configuration.
    require(done.returncode == 1, f"`check` with the variables of {where} ended with {done.returncode}: {output}")
    documented = (ROOT / ".env.example").read_text()
    for name in variables:
        require(re.search(rf"^(# )?{name}=", documented, re.M), f"{where} sets {name}, which is not in .env.example")


def check_dockerfile():
    run(PROGRAMS / "hadolint", DEPLOY / "Dockerfile")
    rust = re.search(r'^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    require(f"FROM rust:{rust}-" in DOCKERFILE, f"the Dockerfile does not build with Rust {rust}")
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    require(f"image: rust:{rust}-" in workflow, f"the workflow does not use Rust {rust}")
    steps = yaml.safe_load(workflow)["jobs"]["test"]["steps"]
    require(any(step.get("run") == ".ci/run" for step in steps), "the workflow does not run .ci/run")


def check_kubernetes(binary):
    path = DEPLOY / "kubernetes/poem-hanko.yaml"
    output = run(PROGRAMS / "kubernetes-validate", "--strict", path)
    documents = {document["kind"]: document for document in yaml.safe_load_all(path.read_text())}
    require(output.count("passed for resource") == len(documents) == 5, output)

    pod = documents["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    variables["REVOCATION_STORE_URL"] = "redis://redis"
    accepts_variables(binary, variables, path.name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    require(ports == {"http": 8000, "admin": int(variables["ADMIN_ADDRESS"].rpartition(":")[2])}, f"ports: {ports}")
    for probe, route in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        require(container[probe]["httpGet"] == {"path": route, "port": "admin"}, f"{probe}: {container[probe]}")
    require("lifecycle" not in container, "no lifecycle hook is needed: SHUTDOWN_DELAY drains")
    # Otherwise the Pod is killed while it drains.
    stop = seconds(variables["SHUTDOWN_DELAY"]) + seconds(variables["SHUTDOWN_GRACE"])
    require(stop < pod["spec"]["terminationGracePeriodSeconds"], "terminationGracePeriodSeconds is too short")
    probe = container["readinessProbe"]
    require(probe["periodSeconds"] * probe["failureThreshold"] < seconds(variables["SHUTDOWN_DELAY"]),
            "SHUTDOWN_DELAY is shorter than the time in which readiness fails")

    labels = pod["metadata"]["labels"]
    selectors = [
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    require(all(selector == labels for selector in selectors), f"selectors: {selectors}")
    target = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    require(target == documents["Deployment"]["metadata"]["name"], f"the autoscaler scales {target}")

    route = yaml.safe_load((DEPLOY / "kubernetes/gateway.yaml").read_text())
    auth = route["spec"]["rules"][0]["filters"][0]["externalAuth"]
    service = documents["Service"]
    require(auth["backendRef"] == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]},
            f"the route asks {auth['backendRef']}")


def check_compose(binary):
    text = (DEPLOY / "compose.yaml").read_text()
    PyCompose.from_yaml(text)
    compose = yaml.safe_load(text)
    services = compose["services"]
    for name, service in services.items():
        for dependency in service.get("depends_on", []):
            require(dependency in services, f"{name} depends on {dependency}")
        for volume in service.get("volumes", []):
            require(volume.partition(":")[0] in compose["volumes"], f"{name} mounts {volume}")
        for config in service.get("configs", []):
            require(config["source"] in compose["configs"], f"{name} reads {config}")
    accepts_variables(binary, services["poem-hanko"]["environment"], "compose.yaml")
    build = services["poem-hanko"]["build"]
    require((DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile"), f"it builds {build}")
    hanko = yaml.safe_load(compose["configs"]["hanko"]["content"])
    for host in (hanko["database"]["host"], hanko["email_delivery"]["smtp"]["host"]):
        require(host in services, f"Hanko connects to {host}")


def check_unit(binary, folder):
    unit = (DEPLOY / "poem-hanko.service").read_text()
    require("/usr/local/bin/poem-hanko" in unit, "the unit starts another program")
    path = folder / "poem-hanko.service"
    path.write_text(unit.replace("/usr/local/bin/poem-hanko", str(binary)))
    output = run("systemd-analyze", "verify", path)
    # It also verifies other units of this machine.
    require("poem-hanko.service" not in output, output)


class Container:
    """Runs commands with only the files of the image, which are read-only, and without root's rights."""

    def __init__(self, binary, folder):
        self.root = folder / "image"
        run(DEPLOY / "image-root", binary, self.root)
        self.size = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        # What every container runtime adds.
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (self.root / "dev").mkdir()
        (self.root / "proc").mkdir()
        (self.root / "dev/null").touch()
        user = re.search(r"^USER (.*)", DOCKERFILE, re.M)[1]
        words = re.search(r"^ENV (.*)", DOCKERFILE, re.M)[1].split()
        self.variables = dict(word.split("=") for word in words)
        require(self.variables["HOST"] == "0.0.0.0", "the image does not listen on all addresses")
        self.entrypoint = json.loads(re.search(r"^ENTRYPOINT (.*)", DOCKERFILE, re.M)[1])
        self.healthcheck = json.loads(re.search(r"^HEALTHCHECK .*CMD (.*)", DOCKERFILE, re.M)[1])
        mounts = (
            f'mount --bind {self.root} {self.root} && mount -o remount,bind,ro {self.root} && '
            f'mount -t proc proc {self.root}/proc && mount --bind /dev/null {self.root}/dev/null && '
            f'exec chroot --userspec={user} {self.root} "$@"'
        )
        self.prefix = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", mounts, "container"]

    def command(self, *words, **variables):
        # No traffic leaves loopback in a test.
        environment = {**self.variables, "PATH": os.environ["PATH"], "HOST": "127.0.0.1", **variables}
        return {"args": [*self.prefix, *words], "env": environment, "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT, "text": True}


def local_hanko(binary, folder):
    process = subprocess.Popen(
        [binary, "dev"], cwd=folder, env={"PATH": os.environ["PATH"], "PORT": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    for line in process.stdout:
        if found := re.match(r"Local Hanko +(\S+)", line.strip()):
            return process, found[1].replace("127.0.0.1", "localhost")
    fail("`dev` prints no URL of a local Hanko")


def check_image(binary, folder, limit):
    container = Container(binary, folder)
    megabytes = container.size / 1e6
    if limit:
        require(megabytes < limit, f"the image has {megabytes:.1f} MB")
    hanko, url = local_hanko(binary, folder)
    try:
        port, admin = free_port(), free_port()
        variables = {"HANKO_API_URL": url, "PORT": str(port), "ADMIN_ADDRESS": f"127.0.0.1:{admin}"}
        serve = subprocess.Popen(**container.command(*container.entrypoint, "serve", **variables))
        healthcheck = lambda: subprocess.run(**container.command(*container.healthcheck, **variables), timeout=20)
        try:
            # Readiness needs the keys, whose URL contains `localhost`: this shows that names are resolved.
            wait_until(lambda: status(admin, "/readyz") == 200 or serve.poll() is not None, "the container")
            require(serve.poll() is None, f"the container ended: {serve.stdout.read() if serve.poll() else ''}")
            require(status(port, "/") == 200, "the container does not serve")
            done = healthcheck()
            require(done.returncode == 0, f"the health check failed: {done.stdout}")
            # `unshare` has one child, which is the first process of the container.
            child = int(pathlib.Path(f"/proc/{serve.pid}/task/{serve.pid}/children").read_text())
            os.kill(child, signal.SIGTERM)
            require(serve.wait(timeout=20) == 0, f"the container ended with {serve.returncode}")
        finally:
            # `--kill-child` ends the container with it.
            serve.kill()
        done = healthcheck()
        require(done.returncode == 1, f"the health check of nothing ended with {done.returncode}: {done.stdout}")
    finally:
        hanko.terminate()
        hanko.wait(timeout=20)

    # https needs the CA roots of the image, which are the only ones in the container.
    https = {"HANKO_API_URL": f"https://127.0.0.1:{free_port()}", "PORT": "0", "JWKS_TIMEOUT": "1s"}
    check = lambda: subprocess.run(**container.command(*container.entrypoint, "check", **https), timeout=60)
    with_roots = check().stdout
    (container.root / "etc/ssl/certs/ca-certificates.crt").unlink()
    without_roots = check().stdout
    require("SSL_CERT_FILE" not in with_roots and "SSL_CERT_FILE" in without_roots,
            f"with CA roots: {with_roots}\nwithout: {without_roots}")
    return f"image: {megabytes:.1f} MB, serves read-only without root's rights"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--limit", type=int, help="megabytes of the image")
    arguments = parser.parse_args()
    binary = arguments.binary.resolve()
    check_dockerfile()
    print("Dockerfile: passed hadolint")
    check_kubernetes(binary)
    print("Kubernetes: passed kubernetes-validate; gateway.yaml has no schema there")
    check_compose(binary)
    print("compose.yaml: passed the Compose specification; not run")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # The user of the image must reach it.
        folder.chmod(0o755)
        check_unit(binary, folder)
        print("poem-hanko.service: passed systemd-analyze verify; not started")
        if os.geteuid() == 0:
            print(check_image(binary, folder, arguments.limit))
        else:
            print("image: skipped, because chroot needs root")


main()
