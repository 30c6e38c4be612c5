"""What PyTorch, cuBLAS and cuSOLVER take for the work of kernels/calibrate.h and kernels/eigen.h (comparisons.py), at the
shapes of calibration.cu, on the GPU of this machine. Needs Python with PyTorch for CUDA, and nothing else; ends within a
minute.
  python3 cuda/bench/compare.py [RESULTS.json]
Times are medians by CUDA events. What cannot be measured is a row that says why: comparisons run in a process beside
this one, and when one of them ends it, or hangs, another process goes on with the next.
"""

import json
import pathlib
import subprocess
import sys
import threading
import time

SECONDS = 55
# For one comparison, and for what a process needs before its first.
SECONDS_EACH, SECONDS_TO_START = 15, 30


class Process:
    """Comparisons from one on."""

    def __init__(self, first, left):
        file = pathlib.Path(__file__).with_name("comparisons.py")
        self.process = subprocess.Popen([sys.executable, file, str(first)], stdout=subprocess.PIPE, text=True)
        # Of all comparisons; None when the process cannot start.
        self.names = self.next(min(left, SECONDS_TO_START))

    def next(self, seconds):
        """What it says next, or None when it ends first, by itself or because time is over."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None

    def end(self):
        self.process.kill()
        return self.process.wait()


def main():
    begin = time.monotonic()
    rows = []

    def left():
        return begin + SECONDS - time.monotonic()

    def report(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        # After every row: whoever stops this has what there is.
        if len(sys.argv) > 1:
            pathlib.Path(sys.argv[1]).write_text(json.dumps({"rows": rows}, indent=1))

    process = Process(0, left())
    names = process.names
    if names is None:
        sys.exit("compare.py: no comparison can start; PyTorch for CUDA and a GPU are needed")
    for index, name in enumerate(names):
        if left() <= 0:
            report({"name": name, "failed": "no time left"})
            continue
        process = process or Process(index, left())
        row = process.names and process.next(min(left(), SECONDS_EACH))
        report(row or {"name": name, "failed": f"its process ended with {process.end()}"})
        if not row or "fault" in row:
            process.end()
            process = None
    if process:
        process.end()
    projections = [row["seconds"] for row in rows if "forwardAndBackward" in row.get("seconds", {})]
    if len(projections) == 7:
        report({"name": "layer", "seconds": {k: sum(one[k] for one in projections) for k in projections[0]}})
    report({"name": "seconds of all", "seconds": time.monotonic() - begin})


if __name__ == "__main__":
    main()
