"""Run a command and print what it cost, as JSON: python -I -S launch.py LOG COMMAND...

A process counts the peak memory of the one that started it as its own. So each measured command is started by this
small one, and not by the benchmark, which has grown.
"""

import json
import os
import sys
import time

log, *command = sys.argv[1:]
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
started = time.perf_counter()
pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - started
cpu = usage.ru_utime + usage.ru_stime
peak_mb = usage.ru_maxrss * 1024 / 1e6
print(json.dumps({"wall": wall, "cpu": cpu, "peak_mb": peak_mb, "exit_code": os.waitstatus_to_exitcode(status)}))
