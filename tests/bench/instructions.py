"""Instructions per request, counted by callgrind: the figure that a busy machine moves least."""

import pathlib
import subprocess
import time

import loads

CONNECTIONS = 8


def per_request(chain, world, requests):
    """Instructions in user space of client's and server's proxy for one HTTP/1.1 request.

    What a proxy does by the clock goes on while valgrind makes requests slow: it is counted over the same time
    without requests, and taken off.
    """
    chain.stop()
    wrapper = ["valgrind", "--tool=callgrind", "--fair-sched=yes", "--vgdb-prefix=./vgdb",
               f"--callgrind-out-file=callgrind.{chain.name}.%p"]
    if chain.name == "nginx":  # one process, else the worker would not be the one that is asked
        for command in chain.commands.values():
            command[-1] = "daemon off; master_process off;"
    chain.start(world, wrapper)
    loads.exactly(chain.http1, requests // 2, CONNECTIONS)
    dump(chain)  # and counts from zero
    begin = time.monotonic()
    loads.exactly(chain.http1, requests, CONNECTIONS)
    dump(chain)
    time.sleep(time.monotonic() - begin)
    dump(chain)
    counts = [(counted(chain, process, 2) - counted(chain, process, 3)) / requests for process in chain.processes.values()]
    chain.stop()
    return counts


def dump(chain):
    for process in chain.processes.values():
        subprocess.run(["vgdb", f"--pid={process.pid}", "--vgdb-prefix=./vgdb", "dump"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def counted(chain, process, part):
    profile = pathlib.Path(f"callgrind.{chain.name}.{process.pid}.{part}").read_text()
    return int(loads.number(r"(?m)^totals: (\d+)", profile))
