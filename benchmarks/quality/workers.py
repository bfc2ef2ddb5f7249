"""Commands that run side by side, each on its share of the cores."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

POLL_SECONDS = 0.1
SHOWN_LINES = 20


def run_all(commands: Mapping[str, Sequence[str]], at_once: int) -> None:
    """Runs commands; when one fails, or this process is to end, none is left running.

    What they print is printed. What they write to stderr is shown of one that fails.

    Args:
        commands: name -> a program with its arguments, in the order in which they start.
        at_once: how many run at a time.
    """
    cores = sorted(os.sched_getaffinity(0))
    free = [cores[place % len(cores) :: at_once] for place in range(at_once)]
    waiting, running = list(commands.items()), {}
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with tempfile.TemporaryDirectory() as folder:
            while waiting or running:
                while waiting and free:
                    name, command = waiting.pop(0)
                    share, errors = free.pop(0), pathlib.Path(folder, name)
                    running[_started(command, share, errors)] = name, share, errors
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.poll() is not None]:
                    name, share, errors = running.pop(process)
                    free.append(share)
                    if process.returncode:
                        sys.exit(_failure(name, process.returncode, errors.read_text()))
    finally:
        for process in running:
            # With it goes what it has started.
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _started(command, cores, errors):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(len(cores))}
    with errors.open("w") as file:
        process = subprocess.Popen(command, env=environment, stderr=file, process_group=0)
    # It is still starting: TensorFlow and the rankings will have as many threads as it has cores.
    os.sched_setaffinity(process.pid, cores)
    return process


def _failure(name, code, written):
    last = "\n".join(written.splitlines()[-SHOWN_LINES:])
    return (
        f"{name} should end with exit code 0. Received: {code}, after\n{last}\n"
        "Mend it, or leave it out by --methods; the finished results are kept, and the same command goes on"
    )


def _leave(number, frame):
    sys.exit(128 + number)
