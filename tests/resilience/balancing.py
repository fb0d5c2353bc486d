"""E1, E2, E9, E10: endpoints that are slow, fail, flap or are dead."""

import concurrent.futures
import signal
import threading
import time

from mesh import Load, Mesh, good, recovered, warm

FAILING = {"failShare": 1, "failStatus": 500}
RETRY = {"retry": {"attempts": 2, "codes": [500, 502, 503, 504], "backoff": "25ms"}}


def slow_replica(run):
    """E1: ten replicas of 10 ms, one takes a second longer."""
    rate, healthy, faulty, learn = (1000, 20, 60, 0) if run.full else (1000, 2, 4, 2)
    for clients in (1, 20):
        p99 = {}
        for algorithm in ("PeakEwma", "RoundRobin"):
            with Mesh(f"E1-{clients}-{algorithm}", run.keep) as mesh:
                apps = mesh.apps(10)
                apps.become({"*": {"delay": "10ms"}})
                pods = mesh.pod(apps.servers.values())
                api = run.traffic({"endpoints": pods.endpoints}, {"loadBalancing": {"algorithm": algorithm}})
                urls = [mesh.client({"api": api}, f"client{index}").url("api") for index in range(clients)]
                warm(urls, rate)
                if algorithm == "PeakEwma":
                    p99["healthy"] = good(Load(urls, healthy, rate, 300).finish()).p99
                apps.become({apps.names[0]: {"delay": "1010ms"}})
                if algorithm == "RoundRobin":
                    p99[algorithm] = good(Load(urls, faulty, rate, 300, warm_up="1s").finish()).p99
                    continue
                load = Load(urls, learn + faulty, rate, 300, warm_up=f"{learn}s")
                time.sleep(learn)
                apps.reset()
                p99[algorithm] = good(load.finish()).p99
                counts = apps.counts()
                share = counts[apps.names[0]]["received"] / sum(each["received"] for each in counts.values())
        who = "1 client" if clients == 1 else f"{clients} clients"
        run.at_least("E1", f"{who}: p99 of round robin / ours", p99["RoundRobin"] / p99["PeakEwma"], 20,
                     "{:.1f}", f"{p99['RoundRobin']:.0f} ms / {p99['PeakEwma']:.0f} ms")
        run.at_most("E1", f"{who}: p99 / p99 without the slow one", p99["PeakEwma"] / p99["healthy"], 2,
                    "{:.2f}", f"{p99['PeakEwma']:.1f} ms / {p99['healthy']:.1f} ms")
        run.at_most("E1", f"{who}: share of the slow one", share * 100, 0.5, "{:.2f} %")


def failing_replica(run):
    """E2: ten replicas of 10 ms, one answers 500 at once."""
    rate, seconds = (1000, 60) if run.full else (1000, 10)
    for what, policy, bar in (("without retries", {}, 99.9), ("with retries", RETRY, 99.99)):
        with Mesh(f"E2-{len(policy)}", run.keep) as mesh:
            apps = mesh.apps(10)
            apps.become({"*": {"delay": "10ms"}})
            pods = mesh.pod(apps.servers.values())
            client = mesh.client({"api": run.traffic({"endpoints": pods.endpoints}, policy)})
            warm(client.url("api"), rate)
            apps.become({apps.names[0]: FAILING})
            apps.reset()
            report = Load(client.url("api"), seconds, rate, 200).finish()
            hit = apps.counts()[apps.names[0]]["received"]
            run.at_least("E2", f"{what}: success", report.success * 100, bar, "{:.3f} %", f"{hit} requests met the failing one {report.why()}".strip())


def flapping(run):
    """E9: one of four replicas fails half of its requests for a while."""
    with concurrent.futures.ThreadPoolExecutor() as both:
        flaps = [both.submit(flap, run, what, policy) for what, policy in (("with retries", RETRY), ("without retries", {}))]
    for told in flaps:
        what, success, out, probes, reached, back, half = told.result()
        run.at_most("E9", f"{what}: the flapping one is out after", out, 3, "{:.1f} s", f"success {success:.2%}")
        run.at_most("E9", f"{what}: probes meanwhile", probes, 1, "{:.1f} /s", f"{reached:.1f} requests/s in all")
        again = f"half of its share after {half:.1f} s" if half else "half of its share never"
        if what == "with retries":
            run.at_most("E9", f"{what}: back after it has healed", back, 2, "{:.1f} s", again)
        else:  # a probe costs a caller a failure here, so they become rare
            run.note("E9", f"{what}: back after it has healed", "never" if back is None else f"{back:.1f} s", again)


def flap(run, what, policy):
    rate, fault, after = (200, 30, 60) if run.full else (200, 10, 8)
    with Mesh(f"E9-{len(policy)}", run.keep) as mesh:
        apps = mesh.apps(4)
        apps.become({"*": {"delay": "5ms"}})
        pods = mesh.pod(apps.servers.values())
        client = mesh.client({"api": run.traffic({"endpoints": pods.endpoints}, policy)})
        warm(client.url("api"), rate)
        flaps, seen, end = apps.names[0], [], threading.Event()

        def watch():
            while not end.wait(0.05):
                seen.append((time.time(), apps.counts()[flaps]["received"]))

        load = Load(client.url("api"), 1 + fault + after, rate, 100)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        time.sleep(1)
        apps.become({flaps: {"delay": "5ms", "failShare": 0.5, "failStatus": 503}})
        broken = time.time()
        time.sleep(fault)
        probes = client.count("byrnie_probes_total") / fault
        apps.become({flaps: {"delay": "5ms"}})
        healed = time.time()
        success = load.finish().success
        end.set()
        watcher.join()

    def received(begin, until):
        counts = [count for at, count in seen if begin <= at <= until]
        return counts[-1] - counts[0] if counts else 0

    # out: hardly more than probes come; back: requests come in other numbers than probes do
    out = next((at for at, _ in seen if broken <= at < healed - 1 and received(at, at + 1) <= 2), None)
    back = next((at for at, _ in seen if at >= healed and received(max(at - 0.5, healed), at) >= 2), None)
    half = next((at for at, _ in seen if at >= healed + 1 and received(at - 1, at) >= rate / 8), None)
    reached = received(out, healed) / (healed - out) if out else 0
    return (what, success, out and out - broken, probes, reached,
            back and back - healed, half and half - healed)


def dead_replicas(run):
    """E10: eight of ten pods die, then all; then all come back."""
    rate, seconds = (300, 30) if run.full else (300, 5)
    with Mesh("E10", run.keep) as mesh:
        apps = mesh.apps(10)
        apps.become({"*": {"delay": "5ms"}})
        addresses = list(apps.servers.values())
        living, dying = mesh.pod(addresses[:2], "living"), mesh.pod(addresses[2:], "dying")
        client = mesh.client({"api": run.traffic({"endpoints": [*living.endpoints, *dying.endpoints]}, {})})
        url = client.url("api")
        warm(url, rate)

        load = Load(url, seconds, rate, 200)
        time.sleep(0.5)
        apps.reset()
        dying.kill()
        some = load.finish()
        received = apps.total("received")
        run.at_least("E10", "8 of 10 dead: success", some.success * 100, 99.9, "{:.2f} %", f"p99 {some.p99:.0f} ms {some.why()}".strip())
        run.at_most("E10", "8 of 10 dead: requests at the others per request", received / max(some.ok - 0.5 * rate, 1), 1.02, "{:.3f}")

        living.kill()
        waited = Load(url, 4, rate, 400).finish()["latency"]
        run.note("E10", "all dead: p99 of the refusal in the first 4 s, when others may come", f"{waited['p99ms']:.0f} ms", f"p50 {waited['p50ms']:.1f} ms")
        none = Load(url, seconds, rate, 400).finish()
        refused = none["latency"]
        run.at_most("E10", "all dead: p99 of the refusal from then on", refused["p99ms"], 5, "{:.1f} ms", f"p50 {refused['p50ms']:.1f} ms, {none.why()}")

        load = Load(url, 1 + seconds, rate, 400, series="100ms")
        time.sleep(1)
        for pods in (living, dying):
            pods.start()
        for pods in (living, dying):
            pods.ready()
        up = time.time()
        report = load.finish()
        run.at_most("E10", "all back: every request succeeds after", recovered(report.series(0.1), up, 0.99, 0.5), 2, "{:.1f} s", report.why())

        if run.full:  # a pod that is there and says nothing
            living.signal(signal.SIGSTOP)
            hung = Load(url, seconds, rate, 600, timeout="5s", warm_up="5s").finish()
            living.signal(signal.SIGCONT)
            run.note("E10", "2 of 10 hang: success", f"{hung.success:.2%}", f"p99 {hung.p99:.0f} ms {hung.why()}".strip())
