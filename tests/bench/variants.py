"""The chains with other configurations or for longer, one figure each: many endpoints, rules, idle connections, requests."""

import re
import threading
import time

import loads

CONNECTIONS = 32


def measure(compared, world, requests, quick, result):
    for count in (1, 1000) if quick else (1, 10, 100, 1000):
        for chain in compared:
            with Running(chain.with_configs(lambda config, text: endpoints(config, text, count)), world) as other:
                # all endpoints have connections before it counts
                per_request(other, 1000 + 4 * count)
                result.add(chain.name, **{f"endpoints {count}": per_request(other, requests)})
                if count == 1000:
                    result.add(chain.name, endpoints_rss=other.memory(["client"])[0])
    for count in (0, 10_000) if quick else (0, 100, 10_000):
        with Running(compared[0].with_configs(lambda config, text: rules(config, text, count)), world) as other:
            per_request(other, 1000)
            result.add(other.name, **{f"rules {count}": per_request(other, requests)})
    for chain in compared:
        with Running(chain.with_configs(room), world) as other:
            result.add(chain.name, idle_tcp=idle(other, other.stream, 1000, result))
        for count in (1000,) if quick else (1000, 10_000):
            with Running(chain.with_configs(room), world) as other:
                result.add(chain.name, **{f"idle http {count}": idle(other, other.http1, count, result)})
    for chain in compared:
        with Running(chain, world) as other:
            result.add(chain.name, busy_rss=at_2000(other, 2 if quick else 5))
    first, all_ = (10_000, 50_000) if quick else (100_000, 1_000_000)
    with Running(compared[0], world) as other:
        for name, requests in (("many first", first), ("many last", all_ - first)):
            loads.exactly_http1(other, requests, CONNECTIONS)
            result.add(other.name, **{name: other.memory()[0]})
    print("many endpoints, rules, idle connections and requests: measured", flush=True)


class Running:
    """A chain that stands for as long as it is measured."""

    def __init__(self, chain, world):
        self.chain, self.world = chain, world

    def __enter__(self):
        self.chain.start(self.world)
        return self.chain

    def __exit__(self, *_):
        self.chain.stop()


def per_request(chain, requests):
    """CPU of both proxies, in microseconds. So many requests, not so much time: who is cut off costs new connections."""
    cpu = chain.cpu()
    loads.exactly_http1(chain, requests, CONNECTIONS)
    return (chain.cpu() - cpu) / requests * 1e6


def idle(chain, address, count, result):
    """Anonymous KiB of one proxy for each of so many idle connections."""
    loads.Idle(address, CONNECTIONS).close()
    time.sleep(2)  # what the load needed is given back
    before = chain.memory()[1]
    connections = loads.Idle(address, count)
    time.sleep(2)
    each = (chain.memory()[1] - before) / count * 1024
    if count == 10_000:
        result.add(chain.name, idle_cpu=per_request(chain, 5000))
    connections.close()
    return each


def at_2000(chain, seconds):
    """Resident MiB of one proxy halfway through 2,000 requests per second over 100 connections."""
    samples = []
    halfway = threading.Timer(1 + seconds / 2, lambda: samples.append(chain.memory()[0]))
    halfway.start()
    loads.at_rate(chain.http1, 2000, seconds, 100)
    halfway.join()
    return samples[0]


def endpoints(config, text, count):
    """So many endpoints for HTTP/1.1, all of them the same server."""
    addresses = [f"10.78.{number // 250}.{number % 250 + 1}" for number in range(count)]
    if config == "byrnie-client.yaml":
        line = '  - {{address: "{0}:19101", identity: spiffe://bench.local/ns/shop/sa/api, pod: api-{0}}}\n'
        return replaced(r"(?:  - \{address: \"[\d.]+:19101\".*\n)+", "".join(map(line.format, addresses)), text)
    if config == "haproxy-client.cfg":
        line = "    server s{0} {0}:19201 alpn http/1.1\n"
        return replaced(r"(?:    server \w+ [\d.]+:19201 .*\n)+", "".join(map(line.format, addresses)), text)
    if config == "nginx-client.conf":
        lines = "".join(map("        server {0}:19301;\n".format, addresses))
        return replaced(r"(?:        server [\d.]+:19301;\n)+", lines, text).replace("keepalive 256", "keepalive 4096")
    return text


def rules(config, text, count):
    """So many rules that do not match before the one that admits."""
    if config != "byrnie-server.yaml":
        return text
    line = ("  - sources: [{{serviceAccount: {{namespace: shop, name: caller-{0}}}}}]\n"
            "    http: [{{methods: [GET], path: {{type: PathPrefix, value: /{0}}}}}]\n")
    allow = text.index("- name: shop/api\n")
    at = text.index("  rules:\n", allow) + len("  rules:\n")
    return text[:at] + "".join(map(line.format, range(count))) + text[at:]


def room(config, text):
    """For more connections than the others need, and HAProxy starts where the system allows fewer descriptors than it might use."""
    return re.sub(r"(maxconn|worker_connections) 4096", r"\1 25000", text).replace("global\n", "global\n    no strict-limits\n")


def replaced(pattern, by, text):
    changed, count = re.subn(pattern, lambda _: by, text)
    assert count == 1, pattern
    return changed
