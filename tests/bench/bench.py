"""The run: chains alternate in rounds, so that what the machine does meanwhile meets all of them."""

import argparse
import json
import os
import pathlib
import time

import chains
import figures
import instructions
import loads
import training
import variants

CONNECTIONS = 32
RATE = 1500
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks.md"
STEADY = DOCUMENT.with_suffix(".json")


def options():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Compares two Byrnie proxies with two of HAProxy and two of nginx: client, proxy, mutual TLS, proxy, "
        "application, in network namespaces, alternating. Prints medians and ratios; fails only when a request fails.")
    parser.add_argument("--quick", action="store_true", help="one short round and fewer counted instructions, one to two minutes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all chains (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default 5)")
    parser.add_argument("--requests", type=int, default=2000, help="whose instructions are counted; 0: skip (default 2000)")
    parser.add_argument("--markdown", nargs="?", type=pathlib.Path, const=DOCUMENT, metavar="FILE",
                        help="also write the figures into FILE, between its marks (default docs/benchmarks.md)")
    parser.add_argument("--check", action="store_true",
                        help="only what a busy machine does not move, beside the committed figures (docs/benchmarks.json)")
    parser.add_argument("--train", action="store_true",
                        help="only the work that a proxy built to count itself is profiled with (make profile)")
    parser.add_argument("--directory", default=".", help=argparse.SUPPRESS)  # given by `run`, which removes it
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.requests = 1, 2, 500
    if chosen.markdown:
        chosen.markdown = chosen.markdown.resolve()
        if not chosen.markdown.is_file():
            parser.error(f"{chosen.markdown} is no file with the marks of docs/benchmarks.md")
    return chosen


def main():
    chosen = options()
    byrnie = str(pathlib.Path(os.environ["BYRNIE_BUILD"]).resolve() / "bin" / "byrnie-proxy")
    begin, busy, ours = time.monotonic(), machine_seconds(), our_seconds()
    os.environ["BYRNIE_APPS"] = apps = str(pathlib.Path(byrnie).with_name("byrnie-apps"))
    world = chains.World(chosen.directory, apps)
    compared = chains.all_chains(byrnie)
    if chosen.train:
        return training.run(compared[1], world)
    result = figures.Figures()
    steady(pathlib.Path(byrnie), result)
    if chosen.check:
        count_instructions(compared[1], world, chosen.requests, result)
        return print("\n" + result.moves(json.loads(STEADY.read_text())))
    for chain in compared:
        chain.start(world)
    time.sleep(1)
    for chain in compared[1:]:
        resident, anonymous = chain.memory()
        result.add(chain.name, idle_rss=resident, idle_anonymous=anonymous)
    for round_ in range(chosen.rounds):
        # whoever follows whom would otherwise be always the same
        for chain in compared[round_ % len(compared):] + compared[:round_ % len(compared)]:
            print(f"round {round_ + 1} of {chosen.rounds}: {figures.CHAINS[chain.name]} ...", end="", flush=True)
            print(" " + measure(chain, chosen.seconds, result), flush=True)
    for chain in compared[1:]:
        chain.stop()
    variants.measure(compared[1:], world, 2000 if chosen.quick else 20_000, chosen.quick, result)
    for chain in compared[1:] if chosen.requests else []:
        count_instructions(chain, world, chosen.requests, result)

    busy, ours = machine_seconds() - busy, our_seconds() - ours
    others = max(busy - ours, 0) / (time.monotonic() - begin) / os.cpu_count()
    text = "\n\n".join([
        figures.machine(byrnie),
        f"{chosen.rounds} round{'s' * (chosen.rounds > 1)}, {chosen.seconds} s for each load. Everything else on the machine, interrupts included, "
        f"used {others:.0%} of its CPU.",
        result.table(RATE)])
    print(f"\n{text}\n\n{time.monotonic() - begin:.0f} s")
    if chosen.markdown:
        figures.write_between_marks(chosen.markdown, text)
        chosen.markdown.with_suffix(".json").write_text(json.dumps(result.steady(), indent=2) + "\n")


def steady(byrnie, result):
    """What was counted while the binaries were built."""
    result.add("byrnie", size=byrnie.stat().st_size / (1 << 20))
    counted = byrnie.parents[1] / "allocations.txt"
    if counted.is_file():
        http1, http2 = (loads.number(rf"{protocol} ([\d.]+)", counted.read_text()) for protocol in ("HTTP/1.1", "HTTP/2"))
        result.add("byrnie", allocations_http1=http1, allocations_http2=http2)


def count_instructions(chain, world, requests, result):
    print(f"instructions: {figures.CHAINS[chain.name]} ...", end="", flush=True)
    (client, server), http2 = instructions.per_request(chain, world, requests)
    result.add(chain.name, instructions=(client + server) / 1e3, instructions_client=client / 1e3,
               instructions_server=server / 1e3, instructions_http2=sum(http2) / 1e3)
    print(f" {(client + server) / 1e3:.1f} thousand, HTTP/2 {sum(http2) / 1e3:.1f} thousand", flush=True)


def measure(chain, seconds, result):
    """All loads over one chain, once."""
    loads.Closed(chain.http1, 1, CONNECTIONS).finish()

    cpu = chain.cpu()
    load = loads.Closed(chain.http1, seconds, CONNECTIONS)
    time.sleep(seconds / 2)
    memory = chain.memory() if chain.processes else None
    requests, rps = load.finish()
    result.add(chain.name, closed_rps=rps)
    if memory:
        result.add(chain.name, closed_cpu=(chain.cpu() - cpu) / requests * 1e6, load_rss=memory[0], load_anonymous=memory[1])

    cpu = chain.cpu()
    latencies, requests = loads.at_rate(chain.http1, RATE, seconds, CONNECTIONS)
    p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
    result.add(chain.name, rate_p50=p50, rate_p99=p99)
    if memory:
        result.add(chain.name, rate_cpu=(chain.cpu() - cpu) / requests * 1e6)

    cpu = chain.cpu()
    requests, http2 = loads.http2(chain, seconds)
    result.add(chain.name, http2_rps=http2)
    if memory:
        result.add(chain.name, http2_cpu=(chain.cpu() - cpu) / requests * 1e6)

    cpu = chain.cpu()
    calls, grpc = loads.grpc(chain.grpc, seconds)
    result.add(chain.name, grpc_rps=grpc)
    if memory:
        result.add(chain.name, grpc_cpu=(chain.cpu() - cpu) / calls * 1e6)

    cpu = chain.cpu()
    opened, new = loads.new_connections(chain.stream, max(seconds // 2, 1), CONNECTIONS // 2)
    result.add(chain.name, new_rps=new)
    if memory:
        result.add(chain.name, new_cpu=(chain.cpu() - cpu) / opened * 1e6)

    cpu = chain.cpu()
    received, rate = loads.stream(chain.stream, seconds / 2)
    result.add(chain.name, stream_rate=rate * 8 / 1e9)
    if memory:
        result.add(chain.name, stream_cpu=(chain.cpu() - cpu) / (received / (1 << 30)) * 1e3)
    return f"{rps:,.0f}/s, p99 {p99:.2f} ms at {RATE:,}/s, HTTP/2 {http2:,.0f}/s, gRPC {grpc:,.0f}/s, new {new:,.0f}/s, stream {rate * 8 / 1e9:.1f} Gbit/s"


def machine_seconds():
    """CPU seconds that the machine was busy or taken away from us."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / chains.TICKS


def our_seconds():
    """Ours are those that ended, and all that live: the PID namespace holds nobody else."""
    times = os.times()
    living = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != os.getpid()]
    return sum(times[:4]) + sum(chains.cpu_of(pid) for pid in living)


if __name__ == "__main__":
    try:
        main()
    except loads.LoadFailed as failure:
        raise SystemExit(f"\na load failed: {failure}\n{chains.logs()}")
