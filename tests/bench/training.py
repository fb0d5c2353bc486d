"""The work whose profile the proxy is compiled with: what passes through many proxies, in the shares that make it count."""

import os
import pathlib
import signal

import loads
import variants

REQUESTS = 20_000


def run(chain, world):
    """Loads of every protocol over a chain whose proxies count; they write what they counted when they end."""
    pathlib.Path("1k").write_bytes(bytes(1024))
    pathlib.Path("64k").write_bytes(bytes(64 << 10))
    for count in (2, 100):
        print(f"training: {count} endpoints ...", flush=True)
        other = chain.with_configs(lambda config, text: variants.endpoints(config, text, count))
        other.start(world)
        for address, http1 in (other.http1, ["--h1", "-c32"]), (other.http2, ["-c8", "-m16"]):
            loads.h2load(address, [*http1, f"-n{REQUESTS}"])
            loads.h2load(address, [*http1, f"-n{REQUESTS // 4}", "-Haccept-encoding: gzip"], "/1k/chunked")
            loads.h2load(address, [*http1, f"-n{REQUESTS // 4}", "-d1k"])
            loads.h2load(address, [*http1, f"-n{REQUESTS // 40}", "-d64k"])
        loads.grpc(other.grpc, 2)
        loads.new_connections(other.http1, 1, 16)
        loads.new_connections(other.stream, 1, 16)
        loads.stream(other.stream, 1)
        for process in other.processes.values():
            os.kill(process.pid, signal.SIGTERM)
            if process.wait(60):
                raise loads.LoadFailed(f"a proxy ended with {process.returncode}")
