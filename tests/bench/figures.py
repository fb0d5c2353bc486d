"""What the rounds gave: medians, ratios, the table, and the machine that they hold for."""

import collections
import datetime
import os
import pathlib
import platform
import re
import statistics
import subprocess

# key: (section, what, unit, digits); more is better only where the unit is a rate
ROWS = {
    "closed rps": ("HTTP/1.1, 32 connections, as fast as answers come", "throughput", "requests/s", 0),
    "closed cpu": (None, "CPU per request", "µs", 1),
    "rate p50": ("HTTP/1.1, {rate} requests/s over 32 connections", "p50", "ms", 3),
    "rate p99": (None, "p99", "ms", 3),
    "rate cpu": (None, "CPU per request", "µs", 1),
    "http2 rps": ("HTTP/2, 8 connections of 16 streams, as fast as answers come", "throughput", "requests/s", 0),
    "http2 cpu": (None, "CPU per request", "µs", 1),
    "grpc rps": ("gRPC, unary calls of 1 KiB, 8 connections of 16 streams, as fast as answers come", "throughput", "calls/s", 0),
    "grpc cpu": (None, "CPU per call", "µs", 1),
    "new rps": ("New TCP connections, each with a mutual TLS handshake of its own and one small request", "rate", "connections/s", 0),
    "new cpu": (None, "CPU per connection", "µs", 0),
    "stream rate": ("Opaque TCP, one connection that carries a large file", "throughput", "Gbit/s", 2),
    "stream cpu": (None, "CPU per GiB", "ms", 0),
    "idle rss": ("Memory of one proxy", "resident, idle", "MiB", 1),
    "idle anonymous": (None, "anonymous, idle", "MiB", 1),
    "load rss": (None, "resident, under load", "MiB", 1),
    "load anonymous": (None, "anonymous, under load", "MiB", 1),
    "busy rss": (None, "resident, 2,000 requests/s over 100 connections", "MiB", 1),
    "many first": (None, "resident, after 100,000 requests", "MiB", 1),
    "many last": (None, "resident, after 1,000,000 requests", "MiB", 1),
    "idle tcp": ("Memory of one proxy for an idle connection, in and out", "1,000 TCP connections", "KiB", 1),
    "idle http 1000": (None, "1,000 HTTP/1.1 connections of clients", "KiB", 1),
    "idle http 10000": (None, "10,000 HTTP/1.1 connections of clients", "KiB", 1),
    "idle cpu": (None, "CPU per request while 10,000 are idle", "µs", 1),
    "endpoints 1": ("CPU per request over HTTP/1.1, of endpoints", "1", "µs", 1),
    "endpoints 10": (None, "10", "µs", 1),
    "endpoints 100": (None, "100", "µs", 1),
    "endpoints 1000": (None, "1,000", "µs", 1),
    "endpoints rss": (None, "resident, client's proxy, 1,000 endpoints", "MiB", 1),
    "rules 0": ("CPU per request over HTTP/1.1, of authorization rules that do not match", "0", "µs", 1),
    "rules 100": (None, "100", "µs", 1),
    "rules 10000": (None, "10,000", "µs", 1),
    "instructions": ("Instructions in user space per request (callgrind)", "HTTP/1.1, both proxies", "thousand", 1),
    "instructions client": (None, "HTTP/1.1, client's proxy", "thousand", 1),
    "instructions server": (None, "HTTP/1.1, server's proxy", "thousand", 1),
    "instructions http2": (None, "HTTP/2, both proxies", "thousand", 1),
    "allocations http1": ("Allocations per request, both proxies", "HTTP/1.1", "", 1),
    "allocations http2": (None, "HTTP/2", "", 1),
    "size": ("Size of the proxy's binary", "stripped", "MiB", 2),
}
# what depends on the code, not on what else the machine does
STEADY = ("instructions", "instructions client", "instructions server", "instructions http2", "allocations http1",
          "allocations http2", "size")
MOVED = 0.02
CHAINS = {"direct": "no proxy", "byrnie": "Byrnie", "haproxy": "HAProxy", "nginx": "nginx"}
COMPARED = ("direct", "haproxy", "nginx")
START, END = "<!-- figures: written by tests/bench/run --markdown -->\n", "<!-- end of figures -->\n"


class Figures:
    def __init__(self):
        self.values = collections.defaultdict(list)

    def add(self, chain, **values):
        for key, value in values.items():
            self.values[key.replace("_", " "), chain].append(value)

    def table(self, rate):
        header = ["", "unit", *CHAINS.values(), *(f"Byrnie / {CHAINS[peer]}" for peer in COMPARED)]
        lines = [header]
        for key, (section, what, unit, digits) in ROWS.items():
            if not self.values[key, "byrnie"]:
                continue
            if section:
                lines.append([f"**{section.format(rate=f'{rate:,}')}**", *[""] * (len(header) - 1)])
            lines.append([what, unit, *(self.median(key, chain, digits) for chain in CHAINS),
                          *(self.ratio(key, peer) for peer in COMPARED)])
        return aligned(lines)

    def steady(self):
        """Our figures that another run must give again."""
        return {key: round(statistics.median(self.values[key, "byrnie"]), 2) for key in STEADY if self.values[key, "byrnie"]}

    def moves(self, committed):
        """Those figures beside the ones that were committed, and which of them moved."""
        section, lines = "", [["", "unit", "committed", "now", "change"]]
        for key, (heading, what, unit, _) in ROWS.items():
            section = heading or section
            if key in self.steady() and key in committed:
                now, then = self.steady()[key], committed[key]
                change = f"{now / then - 1:+.1%}" + (" MOVED" if abs(now / then - 1) > MOVED else "")
                lines.append([f"{section}: {what}", unit, f"{then:,}", f"{now:,}", change])
        return aligned(lines)

    def median(self, key, chain, digits):
        values = self.values[key, chain]
        return f"{statistics.median(values):,.{digits}f}" if values else ""

    def ratio(self, key, peer):
        """Of each round by itself, because the machine drifts: the median, and the range where there are several."""
        ratios = [ours / theirs for ours, theirs in zip(self.values[key, "byrnie"], self.values[key, peer]) if theirs]
        if not ratios:
            return ""
        spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else ""
        return f"{statistics.median(ratios):.2f}{spread}"


def aligned(lines, left=(0, 1)):
    """A Markdown table that can also be read as it is; numbers stand to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def row(cells):
        return "| " + " | ".join(f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
                                 for column, (cell, width) in enumerate(zip(cells, widths))) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if column in left else ":") for column, width in enumerate(widths)) + "|"
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])


def machine(byrnie):
    """The machine and the programs, without anybody's names."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / (1 << 20)
    system = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text())
    programs = [version([byrnie, "version"], "Byrnie"), version(["haproxy", "-v"], "HAProxy"),
                version(["nginx", "-v"], "nginx"), version(["openssl", "version"], "OpenSSL")]
    return (f"{datetime.date.today()}: {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB, "
            f"Linux {'.'.join(platform.release().split('.')[:2])}, {system[1]}; {', '.join(programs)}.")


def version(command, name):
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return f"{name} {found[0] if found else '(version unknown)'}"


def write_between_marks(path, text, first=START):
    whole = path.read_text()
    before, start, rest = whole.partition(first)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{path} has not both lines {first.strip()} and {END.strip()}")
    path.write_text(before + first + "\n" + text + "\n\n" + END + after)
