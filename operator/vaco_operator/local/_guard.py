"""Becomes another program, which dies with the process that asked for it.

Run as a script by `processes.Process`, with the asking process's id and a command. The kernel then
kills the command when the runner ends in whatever way, SIGKILL included (PR_SET_PDEATHSIG outlives
the exec). It is a program of its own because the runner has threads, and Python code between fork
and exec of a threaded process can hang.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def guarded(command: list[str]) -> list[str]:
    """Return what runs `command` tied to this process, without a look at site-packages."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Tie this process to `parent` and become `command`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        # The runner ended before it was watched.
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
