"""The run: ten experiments, one after the other, and the table of what they showed."""

import argparse
import datetime
import os
import pathlib
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "bench"))

import bench
import chains
import figures

import balancing
import deadlines
import mesh
import overload
import retries
import routing

DOCUMENT = HERE.parents[1] / "docs" / "resilience.md"
MARK = "<!-- figures: written by tests/resilience/run --markdown -->\n"
EXPERIMENTS = {
    "E1": ("a slow replica", balancing.slow_replica),
    "E2": ("a replica that fails fast", balancing.failing_replica),
    "E3": ("a storm of retries over three tiers", retries.retry_storm),
    "E4": ("metastability", retries.metastability),
    "E5": ("overload", overload.overload),
    "E6": ("priorities under overload", overload.priority),
    "E7": ("shares of a split", routing.split),
    "E8": ("deadlines", deadlines.deadline),
    "E9": ("a replica that flaps", balancing.flapping),
    "E10": ("dead replicas", balancing.dead_replicas),
}


class Run:
    """What was found, and against which bar."""

    def __init__(self, full, keep):
        self.full, self.keep = full, keep
        self.rows, self.missed = [], 0

    def at_most(self, experiment, what, value, bar, form, more=""):
        self._judge(experiment, what, value, bar, value is not None and value <= bar, f"≤ {form.format(bar)}", form, more)

    def at_least(self, experiment, what, value, bar, form, more=""):
        self._judge(experiment, what, value, bar, value is not None and value >= bar, f"≥ {form.format(bar)}", form, more)

    def note(self, experiment, what, figure, more=""):
        self._row(experiment, what, figure, "", "", more)

    def failed(self, experiment, error):
        self.missed += 1
        self._row(experiment, "did not run to its end", str(error).strip().splitlines()[0][:60], "", "missed", "")

    def _judge(self, experiment, what, value, bar, met, told, form, more):
        self.missed += not met
        self._row(experiment, what, "never" if value is None else form.format(value), told, "met" if met else "missed", more)

    def _row(self, experiment, what, figure, bar, verdict, more):
        self.rows.append([experiment, what, figure, bar, verdict])
        print(f"  {verdict or '-':<6}  {what}: {figure}{f' ({bar})' if bar else ''}{f'  [{more}]' if more else ''}", flush=True)

    def traffic(self, service, policy):
        """A service with the policy that its callers follow."""
        rest = {key: value for key, value in policy.items() if key != "timeouts"}
        return {**service, "timeouts": policy.get("timeouts", {}), "traffic": rest}

    def inbound(self):
        """What a pod's proxy does for its application."""
        return {"limits": {"concurrency": "Adaptive"}}

    def table(self):
        rows = [[each if place or index == 0 or self.rows[index - 1][0] != row[0] else "" for place, each in enumerate(row)]
                for index, row in enumerate(self.rows)]
        return figures.aligned([["", "what", "figure", "bar", ""], *rows], left=(0, 1, 4))


def options():
    parser = argparse.ArgumentParser(
        prog="tests/resilience/run",
        description="Shows by experiments what the proxy does about endpoints that are slow, fail, flap or die, about retries, overload and deadlines. "
        "Prints a table; ends with 1 when a bar is missed.")
    parser.add_argument("--full", action="store_true", default=os.environ.get("RESILIENCE") == "full",
                        help="longer, half an hour; also RESILIENCE=full")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(EXPERIMENTS), metavar="E1,E4", help="these experiments")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIRECTORY", help="keep configurations, logs and metrics of the proxies there")
    parser.add_argument("--markdown", nargs="?", type=pathlib.Path, const=DOCUMENT, metavar="FILE",
                        help="also write the table into FILE, between its marks (default docs/resilience.md)")
    parser.add_argument("--directory", default=".", help=argparse.SUPPRESS)  # given by `run`, which removes it
    chosen = parser.parse_args()
    unknown = [each for each in chosen.only if each not in EXPERIMENTS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}: there are {', '.join(EXPERIMENTS)}")
    if chosen.keep:
        chosen.keep.mkdir(parents=True, exist_ok=True)
        chosen.keep = chosen.keep.resolve()
    if chosen.markdown:
        chosen.markdown = chosen.markdown.resolve()
        if not chosen.markdown.is_file():
            parser.error(f"{chosen.markdown} is no file with the marks of docs/resilience.md")
    return chosen


def main():
    chosen = options()
    begin = time.monotonic()
    os.chdir(chosen.directory)
    chains.run("ip", "link", "set", "lo", "up")
    chains.certificates()
    run, others = Run(chosen.full, chosen.keep), 0
    for name, (what, experiment) in EXPERIMENTS.items():
        if name not in chosen.only:
            continue
        print(f"{name}: {what}", flush=True)
        started, busy, ours = time.monotonic(), bench.machine_seconds(), bench.our_seconds()
        try:
            experiment(run)
        except (Exception, SystemExit) as error:  # the others are shown all the same
            traceback.print_exc()
            print(chains.logs(), file=sys.stderr)
            run.failed(name, error)
        took, used = time.monotonic() - started, bench.our_seconds() - ours
        rest = max(bench.machine_seconds() - busy - used, 0)
        others += rest
        print(f"  {took:.0f} s; {used / took / os.cpu_count():.0%} of the CPU was ours, {rest / took / os.cpu_count():.0%} somebody else's", flush=True)
    seconds = time.monotonic() - begin
    bars = sum(bool(row[4]) for row in run.rows)
    text = (f"{machine()} {'Full' if chosen.full else 'Short'} lengths, {seconds:.0f} s. "
            f"Everything else on the machine, interrupts included, used {others / seconds / os.cpu_count():.0%} of its CPU.\n\n{run.table()}\n\n"
            f"{bars - run.missed} of {bars} bars are met.")
    print(f"\n{text}")
    if chosen.markdown:
        figures.write_between_marks(chosen.markdown, text, MARK)
    raise SystemExit(1 if run.missed else 0)


def machine():
    version = subprocess.run([str(mesh.BIN / "byrnie-proxy"), "version"], capture_output=True, text=True).stdout.split()
    return f"{datetime.date.today()}: {os.cpu_count()} CPUs, Byrnie {version[-1] if version else '(version unknown)'}."


if __name__ == "__main__":
    main()
