"""The chains that are compared: their processes, certificates and network, and what these cost in CPU and memory."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

CONFIGS = pathlib.Path(__file__).parent / "configs"
STREAM_BYTES = 64 << 20
ENDPOINTS = "10.78.0.0/16"
TICKS = os.sysconf("SC_CLK_TCK")


class Chain:
    """A way to the application: client's proxy, mutual TLS, server's proxy. Or none, as the measure."""

    def __init__(self, name, addresses, peers=(), client=None, server=None):
        self.name = name
        self.addresses = addresses
        self.http1, self.http2, self.stream, self.grpc = addresses
        self.peers = peers  # where the server's proxy listens
        self.commands = {"client": client, "server": server} if client else {}
        self.processes = {}

    def start(self, world, wrapper=()):
        for side, command in self.commands.items():
            self.processes[side] = world.start(side, [*wrapper, *command])
        for address in (*self.peers, *self.addresses):
            wait_for(address)

    def stop(self):
        for process in self.processes.values():
            pids = family(process.pid)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            # a worker holds its listeners until it has ended, too
            while any(map(lives, pids)):
                time.sleep(0.01)
        self.processes = {}

    def cpu(self):
        """CPU seconds so far, user and system, of both proxies."""
        return sum(cpu_of(pid) for process in self.processes.values() for pid in family(process.pid))

    def memory(self, sides=("client", "server")):
        """Resident and anonymous MiB of one proxy: the mean of the two."""
        both = [memory_of(family(self.processes[side].pid)) for side in sides]
        return tuple(sum(values) / len(both) / 1024 for values in zip(*both))

    def with_configs(self, change):
        """The same chain with other configurations: `change` gets a name and a text, and gives another text."""
        commands = {}
        for side, command in self.commands.items():
            config = next(name for name in map(os.path.basename, command) if (CONFIGS / name).is_file())
            changed = f"other-{config}"
            pathlib.Path(changed).write_text(change(config, (CONFIGS / config).read_text()))
            commands[side] = [word[:-len(config)] + changed if word.endswith(config) else word for word in command]
        return Chain(self.name, self.addresses, self.peers, **commands)


def all_chains(byrnie):
    """Direct first: it is what the others are measured by."""

    def nginx(side):
        return ["nginx", "-p", ".", "-c", f"{os.getcwd()}/nginx-{side}.conf", "-e", "stderr", "-g", "daemon off;"]

    def proxied(name, port, client, server):
        ports = [port + protocol for protocol in (1, 2, 3, 4)]
        return Chain(name, [("127.0.0.1", port) for port in ports], [("10.77.0.2", port + 1000) for port in ports], client, server)

    return [
        Chain("direct", [("10.77.0.2", port) for port in (8001, 8002, 8003, 8004)]),
        proxied("byrnie", 18100, [byrnie, "run", "--config", "byrnie-client.yaml"], [byrnie, "run", "--config", "byrnie-server.yaml"]),
        proxied("haproxy", 18200, ["haproxy", "-db", "-f", "haproxy-client.cfg"], ["haproxy", "-db", "-f", "haproxy-server.cfg"]),
        proxied("nginx", 18300, nginx("client"), nginx("server")),
    ]


class World:
    """Two network namespaces like two pods: ours with the clients, another with the application."""

    def __init__(self, directory, apps):
        os.chdir(directory)
        for file in CONFIGS.iterdir():
            shutil.copy(file, ".")
        with open("stream", "wb") as stream:
            stream.truncate(STREAM_BYTES)
        certificates()
        self.enter = {"client": [], "server": ["nsenter", f"--net={self.second_namespace()}", "--"]}
        origin = ["nginx", "-p", ".", "-c", f"{os.getcwd()}/origin.conf", "-e", "stderr", "-g", "daemon off;"]
        self.start("server", origin)
        self.start("server", [apps, "echo", *(f"-{other}=" for other in ("http", "tcp", "server-first", "tls")), "-grpc", ":8004"])
        wait_for(("10.77.0.2", 8001))
        wait_for(("10.77.0.2", 8004))

    def start(self, side, command):
        log = open(f"{pathlib.Path(command[0]).name}-{side}.log", "ab")
        return subprocess.Popen([*self.enter[side], *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def second_namespace(self):
        """Ends with its holder, which ends with the bench."""
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        theirs = f"/proc/{holder.pid}/ns/net"
        while os.stat(theirs).st_ino == os.stat("/proc/self/ns/net").st_ino:
            time.sleep(0.01)
        run("ip", "link", "add", "pod", "type", "veth", "peer", "name", "pod", "netns", str(holder.pid))
        for enter, addresses in ([], ["10.77.0.1/24"]), (["nsenter", f"--net={theirs}"], ["10.77.0.2/24", "10.77.0.3/24"]):
            for address in addresses:
                run(*enter, "ip", "address", "add", address, "dev", "pod")
            for link in ("lo", "pod"):
                run(*enter, "ip", "link", "set", link, "up")
        # many endpoints: addresses that all lead to the second namespace
        run("nsenter", f"--net={theirs}", "ip", "route", "add", "local", ENDPOINTS, "dev", "lo")
        run("ip", "route", "add", ENDPOINTS, "via", "10.77.0.2")
        return theirs


def certificates():
    """One CA; a SPIFFE id for each of our proxies, a host name for the others. P-256, valid for a day."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "1", "-subj", "/CN=bench",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, alternative in {
        "web": "URI:spiffe://bench.local/ns/shop/sa/web",
        "api": "URI:spiffe://bench.local/ns/shop/sa/api",
        "peer": "DNS:peer.bench.local",
    }.items():
        pathlib.Path("extensions").write_text(
            f"subjectAltName=critical,{alternative}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n")
        run("openssl", "req", *key, "-keyout", f"{name}.key", "-out", "request", "-subj", "/")
        run("openssl", "x509", "-req", "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "1", "-extfile", "extensions", "-out", f"{name}.crt")
    pathlib.Path("peer.pem").write_text(pathlib.Path("peer.crt").read_text() + pathlib.Path("peer.key").read_text())


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")


def wait_for(address, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing listens on {address[0]}:{address[1]} after {seconds} s: {error}\n{logs()}")
            time.sleep(0.05)


def logs():
    return "\n".join(f"--- {path}\n{path.read_text()[-2000:]}" for path in sorted(pathlib.Path().glob("*.log")))


def family(pid):
    """The process and its children."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def lives(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def cpu_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_of(pids):
    """KiB resident and anonymous; pages that a master shares with its worker count once."""
    rollups = []
    for pid in pids:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        rollups.append({line.split()[0]: int(line.split()[1]) for line in lines})
    return max(rollup["Rss:"] for rollup in rollups), sum(rollup["Pss_Anon:"] for rollup in rollups)
