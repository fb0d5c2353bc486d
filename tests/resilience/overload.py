"""E5, E6: more than the applications can do."""

import threading
import time
import urllib.request

from mesh import Load, Mesh, capacity, good, warm

# A pool of threads of ordinary size: 200 requests per second on each of two pods.
APPLICATION = {"workers": 16, "service": "80ms", "spread": 0.2}
PODS = 2
# What comes later is of no use to a caller.
PATIENCE = "1s"


def world(run, mesh):
    apps = mesh.apps(PODS)
    apps.become({"*": APPLICATION})
    pods = [mesh.pod([application], f"pod{index}", inbound_policy=run.inbound()) for index, application in enumerate(apps.servers.values())]
    client = mesh.client({"api": run.traffic({"endpoints": [at for pod in pods for at in pod.endpoints]}, {})})
    return apps, client.url("api")


def overload(run):
    """E5: two and five times the capacity, and nearly all of it."""
    seconds = 60 if run.full else 5
    with Mesh("E5", run.keep) as mesh:
        apps, url = world(run, mesh)
        measured = capacity(apps, 4, 2 * PODS * APPLICATION["workers"])
        warm(url, 0.3 * measured)
        unloaded = good(Load(url, seconds, round(0.3 * measured), 200, poisson=True).finish())
        run.note("E5", "capacity, measured; p99 at 0.3 of it", f"{measured:.0f} /s; {unloaded.p99:.0f} ms")
        nearly = Load(url, seconds, round(0.9 * measured), 700, poisson=True, warm_up="1s", timeout=PATIENCE).finish()
        run.at_most("E5", "0.9 of the capacity: shed", (1 - nearly.success) * 100, 0.5, "{:.2f} %", f"p99 {nearly.p99:.0f} ms {nearly.why()}".strip())
        for times in (2, 5):
            report = Load(url, seconds + 1, round(times * measured), 1000, poisson=True, warm_up="1s", timeout=PATIENCE).finish()
            run.at_least("E5", f"{times} times the capacity: goodput / capacity", report.ok / seconds / measured * 100, 90, "{:.0f} %", report.why())
            run.at_most("E5", f"{times} times the capacity: p99 of the admitted / unloaded", report.p99 / unloaded.p99 if report.ok else None, 2, "{:.2f}", f"p50 {report['goodLatency']['p50ms']:.0f}, p99 {report.p99:.0f} ms")


def priority(run):
    """E6: at five times the capacity, probes and what is said to be critical."""
    seconds = 60 if run.full else 10
    with Mesh("E6", run.keep) as mesh:
        apps, url = world(run, mesh)
        measured = capacity(apps, 3, 2 * PODS * APPLICATION["workers"])
        warm(url, 0.3 * measured)
        flood = Load(url, seconds + 2, round(5 * measured), 1000, poisson=True, timeout=PATIENCE)
        time.sleep(1)
        critical = Load(url, seconds, round(0.1 * measured), 100, poisson=True, timeout=PATIENCE, header="byrnie-priority=critical")
        probes, end = {True: 0, False: 0}, threading.Event()

        def probe(at):
            """As the proxy's prober does for the kubelet: from inside the pod, with its usual time-out of a second."""
            while not end.wait(0.2):
                try:
                    urllib.request.urlopen(f"http://{at}/", timeout=1).close()
                    probes[True] += 1
                except OSError:
                    probes[False] += 1

        probers = [threading.Thread(target=probe, args=(at,), daemon=True) for at in apps.servers.values()]
        for each in probers:
            each.start()
        report = critical.finish()
        end.set()
        flooded = flood.finish()
        for each in probers:
            each.join()
        run.at_least("E6", "5 times the capacity: success of the critical", report.success * 100, 99.9, "{:.2f} %",
                     f"p99 {report.p99:.0f} ms {report.why()}; of the others {flooded.success:.0%}")
        run.at_least("E6", "5 times the capacity: success of probes", probes[True] / max(sum(probes.values()), 1) * 100, 99.9, "{:.2f} %", f"{sum(probes.values())} probes")
