"""SIGTERM as an event, in a process of its own."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import os, signal, time
from vaco_actor.signals import stop_on_signals

stop = stop_on_signals()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b"up")
    time.sleep(60)
    os._exit(0)
os.read(reading, 2)
os.kill(child, signal.SIGINT)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status), stop.wait(0.5), flush=True)
print("ready", flush=True)
print("stopped", stop.wait(60), flush=True)
"""


def test_a_signal_stops_this_process_and_not_its_parent() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"child {-signal.SIGTERM} False\n"
            assert process.stdout.readline() == "ready\n"
            os.kill(process.pid, number)
            assert process.stdout.readline() == "stopped True\n"
            assert process.wait(60) == 0
