"""E8: callers that wait for 200 ms."""

import signal

from mesh import Load, Mesh, warm

TOLD = {"header": "byrnie-timeout=200"}


def deadline(run):
    """E8: what nobody waits for any more is not begun, and what was begun is cancelled."""
    rate, seconds = (100, 30) if run.full else (100, 4)
    with Mesh("E8", run.keep) as mesh:
        apps = mesh.apps(2)
        pods = [mesh.pod([application], f"pod{index}") for index, application in enumerate(apps.servers.values())]
        ends = [at for pod in pods for at in pod.endpoints]
        client = mesh.client({"api": run.traffic({"endpoints": ends}, {}), "grpc": run.traffic({"endpoints": ends, "protocol": "GRPC"}, {})})
        http = client.url("api")
        warm(http, rate)
        apps.become({"*": {"delay": "1s"}})
        alone = [f"http://{at}/" for at in apps.servers.values()]
        for what, kind, target, flags in (
                ("no proxy", "http", alone, {"timeout": "200ms"}),
                ("its deadline is in a header", "http", http, {"timeout": "2s", **TOLD}),
                ("it hangs up", "http", http, {"timeout": "200ms"}),
                ("gRPC", "grpc", client.made["grpc"], {"timeout": "200ms"})):
            apps.reset()
            report = Load(target, seconds, rate, 200, kind=kind, deadline="200ms", **flags).finish()
            counts = apps.counts().values()
            cancelled = sum(each["cancelled"] for each in counts)
            after = max(each["cancelledAfter"]["p99ms"] for each in counts)
            half = max(each["cancelledAfter"]["p50ms"] for each in counts)
            told = f"p50 {half:.1f} ms, {cancelled} of {report.requests} cancelled; {report.why()}"
            if target is alone:
                base = after
                run.note("E8", "no proxy, it hangs up: p99 until the application knows", f"{base:.1f} ms", told)
                continue
            known = cancelled >= 0.99 * report.requests
            run.at_most("E8", f"{what}: p99 until the application knows, beyond that", max(after - base, 0) if known else None, 5, "{:.1f} ms", told)

        # more than they can do, and one pod's proxy hangs: requests wait everywhere
        apps.become({"*": {"workers": 4, "service": "50ms", "attentive": True}})
        Load(http, 1, 40, 100).finish()
        pods[1].signal(signal.SIGSTOP)
        apps.reset()
        report = Load(http, seconds, 2 * rate, 400, poisson=True, timeout="2s", deadline="200ms", **TOLD).finish()
        counts = apps.counts().values()
        late = sum(each["receivedLate"] + each["startedLate"] for each in counts)
        run.at_most("E8", "requests received or begun after their deadline", late, 0, "{:d}",
                    f"of {sum(each['received'] for each in counts)}; success {report.success:.0%}; {report.why()}")
