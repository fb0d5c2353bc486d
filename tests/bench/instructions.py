"""Instructions per request, counted by callgrind: the figure that a busy machine moves least."""

import pathlib
import subprocess
import time

import loads


def per_request(chain, world, requests):
    """Instructions in user space for a request: of client's and server's proxy over HTTP/1.1, and over HTTP/2.

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
    counts, part = [], 0
    for load in (loads.exactly_http1, loads.exactly_http2):
        load(chain, requests // 2)
        dump(chain)  # each dump is a part, and counts from zero
        begin = time.monotonic()
        load(chain, requests)
        dump(chain)
        time.sleep(time.monotonic() - begin)
        dump(chain)
        part += 3
        counts.append([(counted(chain, process, part - 1) - counted(chain, process, part)) / requests
                       for process in chain.processes.values()])
    chain.stop()
    return counts


def dump(chain):
    for process in chain.processes.values():
        subprocess.run(["vgdb", f"--pid={process.pid}", "--vgdb-prefix=./vgdb", "dump"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def counted(chain, process, part):
    profile = pathlib.Path(f"callgrind.{chain.name}.{process.pid}.{part}").read_text()
    return int(loads.number(r"(?m)^totals: (\d+)", profile))
