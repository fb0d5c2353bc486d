"""The loads. Each is bounded, and fails the bench when a request fails: figures of errors say nothing."""

import collections
import json
import os
import pathlib
import re
import select
import socket
import subprocess
import time

REQUEST = b"GET /1k HTTP/1.1\r\nHost: api.shop\r\n\r\n"


class LoadFailed(Exception):
    pass


class Closed:
    """HTTP/1.1 as fast as the answers come (wrk): finish() gives requests and requests per second."""

    def __init__(self, address, seconds, connections, *headers):
        url = "http://{}:{}/1k".format(*address)
        fields = [word for header in headers for word in ("-H", header)]
        self.process = subprocess.Popen(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *fields, url],
                                        stdout=subprocess.PIPE, text=True)

    def finish(self):
        text = self.process.communicate()[0]
        if self.process.returncode or "Non-2xx" in text or "Socket errors" in text:
            raise LoadFailed(text)
        return number(r"(\d+) requests in", text), number(r"Requests/sec:\s+([\d.]+)", text)


def new_connections(address, seconds, connections):
    """TCP connections as fast as they come, each for one small request: how many, and how many per second."""
    return Closed(address, seconds, connections, "Connection: close").finish()


def grpc(address, seconds):
    """Unary calls as fast as the answers come, between grpc-go's client and server: calls and calls per second."""
    command = [os.environ["BYRNIE_APPS"], "load", "grpc", "--url", "{}:{}".format(*address), "--connections", "8",
               "--streams", "16", "--body-bytes", "1024", "--duration", f"{seconds}s", "--output", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LoadFailed(done.stdout)
    report = json.loads(done.stdout)
    return report["ok"], report["requestsPerSecond"]


class Idle:
    """Connections that have had one answer, and ask for nothing more."""

    def __init__(self, address, count):
        self.connections = []
        for _ in range(count):
            connection = socket.create_connection(address, timeout=10)
            self.connections.append(connection)
            connection.send(REQUEST)
            missing = receive(connection, None)
            while missing > 0:
                missing = receive(connection, missing)

    def close(self):
        for connection in self.connections:
            connection.close()


def http2(chain, seconds):
    """HTTP/2 as fast as the answers come: requests and requests per second."""
    return h2load(chain.http2, ["-c8", "-m16", f"-D{seconds}"])


def exactly_http1(chain, requests, connections=8):
    h2load(chain.http1, ["--h1", f"-c{connections}", f"-n{requests}"])


def exactly_http2(chain, requests):
    h2load(chain.http2, ["-c8", "-m16", f"-n{requests}"])


def h2load(address, options, path="/1k"):
    command = ["h2load", "-t1", *options, "http://{}:{}{}".format(*address, path)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    if number(r"(\d+) failed", text) or not number(r"status codes: (\d+) 2xx", text):
        raise LoadFailed(text)
    return number(r"(\d+) succeeded", text), number(r"([\d.]+) req/s", text)


def at_rate(address, rate, seconds, connections, warm_up=1):
    """HTTP/1.1 at a rate, whether or not answers come: latencies in ms and the number of requests.

    A request is timed from when it was due, so that a stall counts for all the requests that it delayed. Those
    of the first `warm_up` seconds are sent, not timed.
    """
    pathlib.Path("/proc/self/timerslack_ns").write_text("1000")
    idle = collections.deque(socket.create_connection(address, timeout=5) for _ in range(connections))
    for connection in idle:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
    total = rate * (seconds + warm_up)
    waiting, due, missing, latencies = collections.deque(), {}, {}, []
    begin = time.perf_counter() + 0.01
    planned = answered = 0
    while answered < total:
        now = time.perf_counter()
        if now > begin + seconds + warm_up + 10:
            raise LoadFailed(f"{total - answered} of {total} requests are unanswered after 10 s")
        while planned < total and begin + planned / rate <= now:
            waiting.append(begin + planned / rate)
            planned += 1
        while waiting and idle:
            connection = idle.popleft()
            due[connection] = waiting.popleft()
            connection.send(REQUEST)
        pause = max(begin + planned / rate - now, 0) if planned < total else 1
        readable = select.select(list(due), [], [], pause)[0]
        now = time.perf_counter()
        for connection in readable:
            missing[connection] = receive(connection, missing.get(connection))
            if missing[connection] == 0:
                del missing[connection]
                answered += 1
                idle.append(connection)
                since = due.pop(connection)
                if since >= begin + warm_up:
                    latencies.append((now - since) * 1000)
    for connection in idle:
        connection.close()
    return sorted(latencies), total


def receive(connection, missing):
    """Reads a part of an answer: how many bytes of its body are still to come."""
    part = connection.recv(65536)
    if missing is not None and part:
        return missing - len(part)
    head, _, body = part.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200") or not length:
        raise LoadFailed(f"not the answer that was expected: {part[:300]!r}")
    return int(length[1]) - len(body)


def stream(address, seconds):
    """One TCP connection that carries a large file again and again: bytes and bytes per second."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(address, timeout=5) as connection:
        begin, received, left = time.perf_counter(), 0, 0
        while time.perf_counter() < begin + seconds:
            if left == 0:
                connection.send(REQUEST.replace(b"/1k", b"/stream"))
                left = receive(connection, None)
            count = connection.recv_into(buffer, min(left, len(buffer)))
            if count == 0:
                raise LoadFailed("the stream ended early")
            left -= count
            received += count
        return received, received / (time.perf_counter() - begin)


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise LoadFailed(f"no {pattern} in:\n{text}")
    return float(found[1])
