"""E7: shares of a split, exact and while they change."""

import time

from mesh import Load, Mesh


def split(run):
    """E7: 90 to 10 over a hundred thousand requests."""
    with Mesh("E7", run.keep) as mesh:
        apps = mesh.apps(2)
        pods = [mesh.pod([application], f"pod{index}") for index, application in enumerate(apps.servers.values())]

        def services(first, second, empty=False):
            ends = [list(pod.endpoints) for pod in pods]
            return {"api": {"endpoints": ends[0], "split": {"api": first, "next": second}}, "next": {"endpoints": [] if empty else ends[1]}}

        client = mesh.client(services(90, 10), made=["api"])
        url = client.url("api")
        report = Load(url, 60, connections=32, requests=100_000).finish()
        counts = [apps.counts()[name]["received"] for name in apps.names]
        run.at_most("E7", "90/10: off by, in points", abs(counts[1] / sum(counts) * 100 - 10), 0.3, "{:.2f}",
                    f"{counts[1]:,} of {sum(counts):,}, {report['requestsPerSecond']:.0f}/s {report.why()}".strip())
        failed = report.requests - report.ok

        load = Load(url, 5, 500, 50)
        for weights in ((50, 50), (10, 90), (0, 1), (90, 10)):
            time.sleep(1)
            client.configure(services(*weights))
        changed = load.finish()
        failed += changed.requests - changed.ok
        run.at_most("E7", "failures, four changes of weights under load included", failed, 0, "{:d}", changed.why())

        load = Load(url, 4, 500, 50)
        time.sleep(1)
        client.configure(services(50, 50, empty=True))
        time.sleep(1)
        apps.reset()
        spilled = load.finish()
        went = apps.counts()
        run.at_most("E7", "a backend without endpoints: failures", spilled.requests - spilled.ok, 0, "{:d}",
                    f"its share went to the other: {went[apps.names[0]]['received']}, {went[apps.names[1]]['received']} {spilled.why()}".strip())
