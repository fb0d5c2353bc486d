"""The processes of an experiment: applications, their pods' proxies, the callers' proxies, and loads. All on loopback."""

import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

from chains import wait_for

BIN = pathlib.Path(os.environ["BYRNIE_BUILD"]).resolve() / "bin"
SERVER = "spiffe://bench.local/ns/shop/sa/api"
ports = itertools.count(20000)


def address():
    """Nobody else is in this network namespace."""
    return f"127.0.0.1:{next(ports)}"


def listening(*addresses):
    for each in addresses:
        host, port = each.split(":")
        wait_for((host, int(port)), 20)


class Process:
    def __init__(self, name, command):
        self.name, self.command = name, command
        self.start()

    def start(self):
        with open(f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def signal(self, number):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


class Apps(Process):
    """Servers that behave as they are told, in one process."""

    def __init__(self, name, count):
        self.servers = {f"{name}-{index + 1}": address() for index in range(count)}
        control = address()
        self.control = f"http://{control}/"
        pairs = ",".join(f"{server}={at}" for server, at in self.servers.items())
        super().__init__(name, [str(BIN / "byrnie-apps"), "faulty", "--server", pairs, "--control", control])
        listening(control)

    @property
    def names(self):
        return list(self.servers)

    def become(self, behaviours):
        """By name; "*" for all others."""
        self._ask("PUT", json.dumps(behaviours).encode())

    def counts(self):
        return json.loads(self._ask("GET"))

    def total(self, count):
        return sum(counts[count] for counts in self.counts().values())

    def reset(self):
        self._ask("DELETE")

    def _ask(self, method, body=None):
        with urllib.request.urlopen(urllib.request.Request(self.control, data=body, method=method), timeout=5) as answer:
            return answer.read()


class Proxy(Process):
    """One pod's proxy: it takes calls for `inbound` (application addresses) and makes calls to `outbound` (services by name)."""

    def __init__(self, name, identity, inbound=(), outbound=None, services=None, inbound_policy=None):
        self.admin = address()
        self.taken = {application: address() for application in inbound}
        self.made = {service: address() for service in outbound or services or {}}
        self.file = pathlib.Path(f"{name}.yaml")
        self.identity, self.inbound_policy = identity, inbound_policy
        self.configure(services or {})
        super().__init__(name, [str(BIN / "byrnie-proxy"), "run", "--config", str(self.file)])
        self.ready()

    def configure(self, services):
        """Also while it runs: it reads its file again when that changes."""
        text = json.dumps(config(self.identity, self.admin, self.taken, self.made, services, self.inbound_policy), indent=1)
        staged = self.file.with_suffix(".staged")
        staged.write_text(text)
        staged.rename(self.file)

    def ready(self):
        listening(*self.taken.values(), *self.made.values(), self.admin)

    @property
    def endpoints(self):
        return list(self.taken.values())

    def url(self, service):
        return f"http://{self.made[service]}/"

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def count(self, name, **labels):
        """The sum of all series of that name and labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            found = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if found and found[1] == name and all(f'{key}="{value}"' in (found[2] or "") for key, value in labels.items()):
                total += float(found[3])
        return total


def config(identity, admin, taken, made, services, inbound_policy):
    """What a proxy is configured with. JSON is YAML."""
    return {
        "trustDomain": "bench.local",
        "identity": {"chain": f"{identity}.crt", "key": f"{identity}.key", "roots": {"bench.local": "ca.crt"}},
        "admin": admin,
        "accessLog": "off",
        "pod": {"name": identity, "namespace": "shop", "addresses": ["127.0.0.1"]},
        "listeners": [
            *({"direction": "Inbound", "listen": at, "application": application} for application, at in taken.items()),
            *({"direction": "Outbound", "listen": at, "service": full(service)} for service, at in made.items())],
        "services": [service_of(name, service) for name, service in services.items()],
        "inbound": {
            "mtls": {"mode": "Strict"},
            "protocols": [{"port": int(application.split(":")[1]), "protocol": "HTTP1"} for application in taken],
            **(inbound_policy or {})},
    }


def service_of(name, service):
    """`service`: endpoints (addresses of proxies), and whatever else the file may say."""
    spelled = {"name": full(name), "protocol": "HTTP1", **service}
    spelled["endpoints"] = [{"address": at, "identity": SERVER, "pod": f"{name}-{at.split(':')[1]}", "uid": at}
                            for at in service.get("endpoints", ())]
    if "split" in service:
        spelled["routes"] = [{"split": [{"service": full(to), "weight": weight} for to, weight in spelled.pop("split").items()]}]
    return spelled


def full(name):
    return f"shop/{name}:80"


class Mesh:
    """What an experiment has started; all of it ends with the experiment."""

    def __init__(self, name, keep=None):
        self.name, self.keep, self.processes = name, keep, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if self.keep and isinstance(process, Proxy) and process.process.poll() is None:
                try:
                    (self.keep / f"{process.name}.metrics").write_text(process.metrics())
                except OSError:
                    pass  # it was paused or killed
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.kill()
        if self.keep:
            for file in [*pathlib.Path().glob(f"{self.name}-*.log"), *pathlib.Path().glob(f"{self.name}-*.yaml")]:
                (self.keep / file.name).write_bytes(file.read_bytes())

    def apps(self, count, name="app"):
        return self._add(Apps(f"{self.name}-{name}", count))

    def pod(self, applications, name="pod", **more):
        """The proxy of one or several pods."""
        return self._add(Proxy(f"{self.name}-{name}", "api", inbound=applications, **more))

    def client(self, services, name="client", made=None):
        """The proxy of a caller; `made` are the services with a listener, all if it is left out."""
        return self._add(Proxy(f"{self.name}-{name}", "web", services=services, outbound=made))

    def _add(self, process):
        self.processes.append(process)
        return process


class Load:
    """`byrnie-apps load` in the background. Timed from when a request was due."""

    def __init__(self, targets, seconds=None, rate=None, connections=32, kind="http", **flags):
        targets = [targets] if isinstance(targets, str) else targets
        command = [str(BIN / "byrnie-apps"), "load", kind, "--url", ",".join(targets), "--output", "json", "--connections", str(connections)]
        if seconds is not None:
            command += ["--duration", f"{seconds}s"]
        if rate is not None:
            command += ["--rate", str(rate)]
        for key, value in flags.items():
            flag = f"--{key.replace('_', '-')}"
            for each in value if isinstance(value, list) else [value]:
                command += [f"{flag}=true"] if each is True else [flag, str(each)]
        self.command = command
        self.begin = time.time()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self):
        out, errors = self.process.communicate(timeout=900)
        if self.process.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(self.command)}: {errors.decode().strip()}")
        return Report(json.loads(out))


class Report(dict):
    """What a load counted."""

    @property
    def requests(self):
        return self["requests"]

    @property
    def ok(self):
        return self["ok"]

    @property
    def success(self):
        return self["ok"] / max(self["requests"], 1)

    @property
    def p99(self):
        """Milliseconds, of the good answers."""
        return self["goodLatency"]["p99ms"]

    def why(self):
        """The statuses and errors that were not good, for people."""
        bad = {**{status: seen["count"] for status, seen in self["statuses"].items() if status not in ("200", "OK", "error")}, **self.get("errors", {})}
        return ", ".join(f"{count} x {what}" for what, count in sorted(bad.items(), key=lambda pair: -pair[1])[:3])

    def series(self, interval):
        """(Unix time of the interval's begin, due, ok)."""
        start = self["startUnixNano"] / 1e9
        return [(start + index * interval, each["due"], each["ok"]) for index, each in enumerate(self.get("series", []))]


def warm(targets, rate):
    """Connections are there and latencies are known: first a little, then all of it."""
    Load(targets, 1, rate / 5, 40).finish()
    Load(targets, 1, rate, 100).finish()


def good(report):
    """The report of a load of which nothing is expected to fail; what follows would mean nothing."""
    if report.success < 0.99:
        raise RuntimeError(f"only {report.ok} of {report.requests} requests succeeded: {report.why()}")
    return report


def capacity(apps, seconds, connections):
    """Requests per second that the applications do, asked without a proxy."""
    report = Load([f"http://{at}/" for at in apps.servers.values()], seconds, connections=connections, warm_up="1s").finish()
    if report.ok != report.requests:
        raise RuntimeError(f"the applications failed alone: {report.why()}")
    return report["requestsPerSecond"]


def goodput(series, begin, end=None):
    """Share of the requests due in the time that came back good."""
    chosen = [(due, ok) for at, due, ok in series if at >= begin and (end is None or at < end)]
    return sum(ok for _, ok in chosen) / max(sum(due for due, _ in chosen), 1)


def recovered(series, begin, share=0.99, window=1.0):
    """Seconds after `begin` from which on every window has at least that share of good requests; None: never."""
    starts = [at for at, _, _ in series if at >= begin]
    last = series[-1][0] - window if series else begin
    bad = [at for at in starts if at <= last and goodput(series, at, at + window) < share]
    if not bad:
        return 0.0
    return None if bad[-1] + window > last else bad[-1] - begin
