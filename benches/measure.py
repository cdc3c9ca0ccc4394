"""What a process takes: wall and processor seconds and its largest memory. For the scripts that run whole processes."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import driver

LIMIT_S = 600


class Failed(Exception):
    pass


def environment(more=None):
    """Without what speaks to the program or to one of its peers."""
    return driver.clean_env({"PYTHONDONTWRITEBYTECODE": "1", **(more or {})}, without=("DLT_", "RUNTIME__", "PYTHON"))


def peak_bytes(used):
    """The system gives it in KiB on Linux, in bytes on macOS."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def megabytes(size):
    return size / 1e6


def measure(commands, folder, env=None):
    """Runs a command, or several as a pipeline; their words stay in `folder`. Wall and processor seconds, and the peak of the
    biggest process in bytes, all of the processes and what they started and waited for."""
    began, processes, before = time.monotonic(), [], None

    def end():
        """Whatever still runs, and all that it started: each has a process group of its own."""
        for process in processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)

    late = threading.Timer(LIMIT_S, end)
    late.start()
    cpu, peak = 0.0, 0
    try:
        for at, command in enumerate(commands):
            last = at == len(commands) - 1
            with (folder / f"{at}.out").open("wb") as out, (folder / f"{at}.err").open("wb") as err:
                process = subprocess.Popen(
                    command,
                    stdin=before or subprocess.DEVNULL,
                    stdout=out if last else subprocess.PIPE,
                    stderr=err,
                    cwd=folder,
                    env=environment(env),
                    start_new_session=True,
                )
            processes.append(process)
            if before:
                before.close()
            before = process.stdout
        for process in processes:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu, peak = cpu + used.ru_utime + used.ru_stime, max(peak, peak_bytes(used))
        wall = time.monotonic() - began
    finally:
        late.cancel()
        end()
    for path in [*folder.glob("*.out"), *folder.glob("*.err")]:
        with path.open(errors="replace") as lines:
            if any(secret in line for line in lines for secret in driver.hidden):
                raise Failed("it printed a secret")
    codes = [p.returncode for p in processes]
    if any(codes):
        # Of a pipeline the last that failed: what stands before it fails for want of a reader.
        at = max(at for at, code in enumerate(codes) if code)
        raise Failed(f"exit codes {codes}: {(folder / f'{at}.err').read_text(errors='replace')[-1500:]}")
    return {"wall": wall, "cpu": cpu, "peak": peak}
