"""Runs one command and writes what it cost to a file: ``launch.py REPORT LOG PROGRAM ARGUMENT…``.

A process of its own, as small as Python can be: Linux counts the peak memory of the process that
starts a command towards the command's own.
"""

import json
import os
import sys
import time

__all__ = []


def _busy_s() -> float:
    """Seconds that this machine's cores have been busy since it started, in whatever process."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _main(report: str, log: str, argv: list[str]) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    busy_s = _busy_s()
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execvp(argv[0], argv)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started
    cpu_s = usage.ru_utime + usage.ru_stime
    others_s = max(0.0, _busy_s() - busy_s - cpu_s)
    with open(report, "w") as file:
        json.dump(
            {
                "code": os.waitstatus_to_exitcode(status),
                "wall_s": wall_s,
                "cpu_s": cpu_s,
                "others_s": others_s,
                "peak_mib": usage.ru_maxrss / 1024,
            },
            file,
        )


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3:])
