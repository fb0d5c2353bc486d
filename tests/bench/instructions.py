"""Instructions per request, counted by callgrind: the one figure that no noise of the machine can move."""

import pathlib
import subprocess

import loads

CONNECTIONS = 8


def per_request(chain, world, requests):
    """Instructions in user space of client's and server's proxy for one HTTP/1.1 request."""
    chain.stop()
    wrapper = ["valgrind", "--tool=callgrind", "--fair-sched=yes", "--vgdb-prefix=./vgdb",
               f"--callgrind-out-file=callgrind.{chain.name}.%p"]
    if chain.name == "nginx":  # one process, else the worker would not be the one that is asked
        for command in chain.commands.values():
            command[-1] = "daemon off; master_process off;"
    chain.start(world, wrapper)
    loads.exactly(chain.http1, requests // 2, CONNECTIONS)
    counts = {}
    dump(chain)  # and counts from zero
    loads.exactly(chain.http1, requests, CONNECTIONS)
    dump(chain)
    for side, process in chain.processes.items():
        profile = pathlib.Path(f"callgrind.{chain.name}.{process.pid}.2").read_text()
        counts[side] = int(loads.number(r"(?m)^totals: (\d+)", profile)) / requests
    chain.stop()
    return counts["client"], counts["server"]


def dump(chain):
    for process in chain.processes.values():
        subprocess.run(["vgdb", f"--pid={process.pid}", "--vgdb-prefix=./vgdb", "dump"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
