"""E3, E4: what retries and time-outs do to those who are in trouble already."""

import time

from mesh import Load, Mesh, capacity, goodput, recovered, warm

RETRY = {"retry": {"attempts": 3, "codes": [500, 502, 503, 504], "backoff": "10ms"}}


def retry_storm(run):
    """E3: three tiers, each of which would send again what fails at the last."""
    rate, seconds = (300, 60) if run.full else (300, 8)
    with Mesh("E3", run.keep) as mesh:
        front, middle, leaf = mesh.apps(1, "front"), mesh.apps(1, "middle"), mesh.apps(3, "leaf")

        def service(pods):
            return run.traffic({"endpoints": pods.endpoints}, RETRY)

        leaves = mesh.pod(leaf.servers.values(), "leaf-pods")
        middle_pod = mesh.pod(middle.servers.values(), "middle-pod", services={"leaf": service(leaves)})
        front_pod = mesh.pod(front.servers.values(), "front-pod", services={"middle": service(middle_pod)})
        client = mesh.client({"front": service(front_pod)})

        def relay(attempts, to_middle, to_leaf):
            front.become({"*": {"relay": to_middle, "attempts": attempts}})
            middle.become({"*": {"relay": to_leaf, "attempts": attempts}})

        relay(3, *(f"http://{next(iter(tier.servers.values()))}/" for tier in (middle, leaf)))
        leaf.become({"*": {"failShare": 1, "failStatus": 503}})
        naive = Load([f"http://{at}/" for at in front.servers.values()], 1, 10, 10, retries=3).finish()
        run.note("E3", "leaf requests per request, every tier tries 4 times, no proxy", f"{leaf.total('received') / naive.requests:.1f}")

        relay(0, front_pod.url("middle"), middle_pod.url("leaf"))
        leaf.become({"*": {}})
        warm(client.url("front"), rate)
        leaf.become({"*": {"failShare": 1, "failStatus": 503}})
        leaf.reset()
        report = Load(client.url("front"), seconds, rate, 200).finish()
        run.at_most("E3", "leaf requests per request, the leaf fails", leaf.total("received") / report.requests, 1.25, "{:.2f}", report.why())

        leaf.become({"*": {}})
        Load(client.url("front"), 3, rate, 100).finish()
        leaf.become({"*": {"failShare": 0.01, "failStatus": 503}})
        leaf.reset()
        report = Load(client.url("front"), seconds, rate, 200).finish()
        failed = sum(counts["failed"] for counts in leaf.counts().values())
        run.at_least("E3", "the leaf fails 1 %: success", report.success * 100, 99.99, "{:.3f} %",
                     f"{failed} failures in {leaf.total('received')} at the leaf {report.why()}".strip())


def metastability(run):
    """E4: for a while the applications do a fifth of what they can; with everything there again, is all well again?"""
    calm, trigger, after = (10, 10, 40) if run.full else (2, 4, 13)
    normal = {"workers": 8, "service": "53ms", "spread": 0.2}
    strained = {**normal, "service": "265ms"}
    policy = {"timeouts": {"request": "2s", "backendRequest": "500ms"}, **RETRY}
    with Mesh("E4", run.keep) as mesh:
        worlds = {name: mesh.apps(2, name) for name in ("at70", "at90", "alone")}
        for apps in worlds.values():
            apps.become({"*": normal})
        measured = capacity(worlds["at70"], 4, 64)
        callers = {}
        for name, apps in worlds.items():
            if name == "alone":  # as many do it: no proxy, and each caller tries four times
                callers[name] = 0.7, [f"http://{at}/" for at in apps.servers.values()], {"timeout": "500ms", "retries": 3}
            else:
                pods = [mesh.pod([application], f"{name}-pod{index}", inbound_policy=run.inbound()) for index, application in enumerate(apps.servers.values())]
                api = run.traffic({"endpoints": [at for pod in pods for at in pod.endpoints]}, policy)
                callers[name] = int(name[2:]) / 100, [mesh.client({"api": api}, f"{name}-client").url("api")], {"timeout": "3s"}
            warm(callers[name][1], 0.3 * measured)
        loads = {name: Load(urls, calm + trigger + after, round(measured * share), 700, poisson=True, series="100ms", **flags)
                 for name, (share, urls, flags) in callers.items()}
        for apps in worlds.values():
            apps.reset()
        time.sleep(calm)
        for apps in worlds.values():
            apps.become({"*": strained})
        time.sleep(trigger)
        for apps in worlds.values():
            apps.become({"*": normal})
        over = time.time()
        for name, load in loads.items():
            report = load.finish()
            series = report.series(0.1)
            last = goodput(series, over + 10)
            seconds = recovered(series, over)
            told = (f"{goodput(series, 0, over - trigger):.1%} before, {goodput(series, over - trigger, over):.0%} while, {goodput(series, over, over + 10):.1%} in the 10 s after; "
                    + (f"well again after {seconds:.1f} s" if seconds is not None else "a window below 99 % to the end") + f"; {worlds[name].total('received') / sum(due for _, due, _ in series):.2f} requests at the applications per request of the caller")
            if name == "alone":
                run.note("E4", "70 % load, no proxy, callers try 4 times: goodput later than 10 s after", f"{last:.1%}", told)
            else:
                run.at_least("E4", f"{name[2:]} % load: goodput later than 10 s after", last * 100, 99, "{:.1f} %", told)
        run.note("E4", "capacity, measured", f"{measured:.0f} /s")
