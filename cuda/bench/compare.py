"""What PyTorch, cuBLAS and cuSOLVER take for the work of kernels/calibrate.h and kernels/eigen.h, at the shapes of
bench/others.cu, on the GPU of this machine. Needs Python with PyTorch for CUDA, and nothing else; ends within a minute.
  python3 cuda/bench/compare.py [RESULTS.json]
Times are medians by CUDA events. What cannot be measured is a row that says why.
"""

import ctypes
import json
import math
import sys
import time
import traceback

import torch

START = time.monotonic()
SECONDS = 55
SEQUENCES, LENGTH = 8, 512
TOKENS = SEQUENCES * LENGTH
LAYER = {
    "q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096),
    "gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336),
}

rows = []


def report(name, **figures):
    rows.append({"name": name, **figures})
    print(json.dumps(rows[-1]), flush=True)
    # After every row: whoever stops this has what there is.
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as out:
            json.dump({"rows": rows}, out, indent=1)


def timed(run, rounds=9, most=1.5):
    """Median seconds of run(); fewer rounds than asked for where they would take more than `most` seconds."""
    def once():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    first = once()
    if first > most:
        # What is used for the first time takes long once.
        return min(first, once()) if first < 5 else first
    once()
    times = [once() for _ in range(max(1, min(rounds, int(most / max(first, 1e-6)))))]
    return sorted(times)[len(times) // 2]


def attempt(name, measure):
    """Reports measure()'s figures, or what went wrong."""
    if time.monotonic() - START > SECONDS:
        report(name, failed="no time left")
        return
    try:
        report(name, **measure())
    except Exception as error:
        report(name, failed=f"{type(error).__name__}: {error}"[:300])
        traceback.print_exc()


# Calibration: one projection y = W x of 8 sequences, W [m, n].

def projection(m, n):
    x = torch.randn(TOKENS, n, device="cuda", dtype=torch.bfloat16)
    g = torch.randn(TOKENS, m, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(m, n, device="cuda", dtype=torch.bfloat16) / math.sqrt(n)
    return x, g, w


def products(m, n):
    """Seconds of the products of one projection, each alone."""
    x, g, w = projection(m, n)
    gs, xs = g.view(SEQUENCES, LENGTH, m), x.view(SEQUENCES, LENGTH, n)
    leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()

    def autograd():
        torch.nn.functional.linear(leaf, weight).backward(g)
        leaf.grad = weight.grad = None

    def scores():
        total = torch.zeros(3, device="cuda", dtype=torch.float64)
        for s in range(SEQUENCES):
            gradient = gs[s].t() @ xs[s]
            product = gradient * w
            total[0] += torch.linalg.vector_norm(product, dtype=torch.float32) ** 2
            total[1] += torch.linalg.vector_norm(gradient, dtype=torch.float32) ** 2
            total[2] += torch.linalg.vector_norm(product, ord=1, dtype=torch.float32)

    return {
        "forward": timed(lambda: x @ w.t()),
        "inputGradient": timed(lambda: g @ w),
        "weightGradient": timed(lambda: g.t() @ x),
        "weightGradientBySequence": timed(lambda: torch.bmm(gs.transpose(1, 2), xs)),
        "forwardAndBackward": timed(autograd),
        "scores": timed(scores),
    }


def layer():
    """All projections of a layer: forward and backward as PyTorch does them."""
    parts = {}

    def measure(name, m, n):
        seconds = products(m, n)
        parts[name] = seconds
        flops = {k: 2.0 * TOKENS * m * n * (3 if k == "forwardAndBackward" else 1) for k in seconds}
        return {"seconds": seconds, "tflops": {k: flops[k] / v / 1e12 for k, v in seconds.items()}}

    for name, (m, n) in LAYER.items():
        attempt(f"{name}, {m}x{n}, {SEQUENCES} sequences of {LENGTH}", lambda: measure(name, m, n))
    if len(parts) == len(LAYER):
        report("layer", seconds={k: sum(part[k] for part in parts.values()) for k in parts["q"]})


def moment(n):
    x = torch.randn(TOKENS, n, device="cuda", dtype=torch.bfloat16)
    return {"seconds": timed(lambda: torch.mm(x.t(), x, out_dtype=torch.float32))}


# Eigenvectors and singular vectors.

def factor(batch, tall, thin):
    """Random matrices with a spectrum that falls as that of whitened weights does."""
    generator = torch.Generator(device="cuda").manual_seed(1)
    a = torch.randn(batch, tall, thin, device="cuda", dtype=torch.float64, generator=generator)
    return a * torch.arange(1, thin + 1, device="cuda", dtype=torch.float64).pow(-0.75)


class Truth:
    """What the best approximation of a [tall, thin] by `rank` misses, from fp64."""

    def __init__(self, a, rank):
        self.a, self.rank = a, rank
        values = torch.linalg.eigvalsh(a.t() @ a)
        self.best = math.sqrt(values[:-rank].clamp(min=0).sum().item())

    def missed(self, right=None, left=None):
        """By how much more singular vectors [thin, r] or [tall, r] miss it."""
        if right is None:
            left = left[:, : self.rank].to(torch.float64)
            rest = self.a - left @ (left.t() @ self.a)
        else:
            right = right[:, : self.rank].to(torch.float64)
            rest = self.a - (self.a @ right) @ right.t()
        return torch.linalg.norm(rest).item() / self.best - 1


class Solver:
    """cuSOLVER's functions that PyTorch has no way to call."""

    DOUBLE, FLOAT = 1, 0  # cudaDataType

    def __init__(self):
        torch.linalg.svd(torch.eye(8, device="cuda"), driver="gesvd")
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "libcusolver.so" in line}
        self.library = ctypes.CDLL(sorted(paths)[0])
        self.handle, self.params = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cusolverDnCreate", ctypes.byref(self.handle))
        self.call("cusolverDnCreateParams", ctypes.byref(self.params))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.call("cusolverDnSetStream", self.handle, stream)
        version = ctypes.c_int()
        self.call("cusolverGetVersion", ctypes.byref(version))
        report("cuSOLVER", version=version.value)

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} gives {status}")

    @staticmethod
    def type_of(tensor):
        return Solver.DOUBLE if tensor.dtype == torch.float64 else Solver.FLOAT

    def workspace(self, name, *arguments, behind=()):
        device, host = ctypes.c_size_t(), ctypes.c_size_t()
        self.call(name, *arguments, ctypes.byref(device), ctypes.byref(host), *behind)
        space = torch.empty(max(1, device.value), device="cuda", dtype=torch.uint8)
        return space, ctypes.create_string_buffer(max(1, host.value)), device, host

    def randomised(self, a, rank, oversampling, iterations):
        """Xgesvdr of one matrix; returns run() and U [rank, m] after it."""
        m, n = a.shape
        kept = a.t().contiguous()  # column-major
        work = kept.clone()
        kind = self.type_of(a)
        s = torch.empty(min(m, n), device="cuda", dtype=a.dtype)
        u = torch.empty(m, m, device="cuda", dtype=a.dtype)
        v = torch.empty(n, n, device="cuda", dtype=a.dtype)
        info = torch.zeros(1, device="cuda", dtype=torch.int32)
        long, char, pointer = ctypes.c_int64, ctypes.c_byte, ctypes.c_void_p
        shape = [self.handle, self.params, char(ord("S")), char(ord("S")), long(m), long(n), long(rank),
                 long(oversampling), long(iterations)]
        data = [kind, pointer(work.data_ptr()), long(m), kind, pointer(s.data_ptr()), kind, pointer(u.data_ptr()), long(m),
                kind, pointer(v.data_ptr()), long(n), kind]
        space, host_space, device, host = self.workspace("cusolverDnXgesvdr_bufferSize", *shape, *data)

        def run():
            work.copy_(kept)
            self.call("cusolverDnXgesvdr", *shape, *data, pointer(space.data_ptr()), device, host_space, host,
                      pointer(info.data_ptr()))

        return run, u

    def eigen(self, matrices):
        """XsyevBatched; returns run() and the vectors, [batch][n][n] as rows in rising order, after it."""
        batch, n, _ = matrices.shape
        work = matrices.clone()
        kind = self.type_of(matrices)
        values = torch.empty(batch, n, device="cuda", dtype=matrices.dtype)
        info = torch.zeros(batch, device="cuda", dtype=torch.int32)
        long, pointer = ctypes.c_int64, ctypes.c_void_p
        vectors, lower = 1, 0
        head = [self.handle, self.params, vectors, lower, long(n), kind, pointer(work.data_ptr()), long(n), kind,
                pointer(values.data_ptr()), kind]
        space, host_space, device, host = self.workspace("cusolverDnXsyevBatched_bufferSize", *head, behind=[long(batch)])

        def run():
            work.copy_(matrices)
            self.call("cusolverDnXsyevBatched", *head, pointer(space.data_ptr()), device, host_space, host,
                      pointer(info.data_ptr()), long(batch))

        return run, work


OVERSAMPLING, ITERATIONS = 16, 4
SHAPES = ((90, 576, 576, 128), (30, 1536, 576, 128), (1, 4096, 4096, 1008))
KINDS = (("fp64", torch.float64), ("fp32", torch.float32))


def problems():
    """(name, batch of [tall, thin] matrices, of their Gram matrices, Truth, rank) for every shape and type."""
    for batch, tall, thin, rank in SHAPES:
        a = factor(batch, tall, thin)
        truth = Truth(a[0], rank)
        for kind, dtype in KINDS:
            yield f"{tall}x{thin}, {kind}", a.to(dtype), (a.transpose(1, 2) @ a).to(dtype), truth, rank


def decompositions():
    """What PyTorch calls: of one matrix, and of a batch of Gram matrices."""
    for name, a, grams, truth, _ in problems():
        results = []

        def svd(driver):
            def run():
                results[:] = torch.linalg.svd(a[0], full_matrices=False, driver=driver)

            return {"secondsPerMatrix": timed(run), "missed": truth.missed(left=results[0])}

        def eigh():
            return {"secondsPerMatrix": timed(lambda: torch.linalg.eigh(grams)) / len(grams)}

        attempt(f"torch.linalg.eigh, {len(grams)} Gram matrices of {name}", eigh)
        for driver in ("gesvd", "gesvdj", "gesvda") if grams.shape[1] < 2000 else ():
            attempt(f"{driver}, {name}", lambda: svd(driver))


def solvers(solver):
    """What PyTorch does not call. A fault here ends all that would follow on the GPU."""
    for name, a, _, truth, rank in problems():

        def randomised():
            run, left = solver.randomised(a[0], rank, OVERSAMPLING, ITERATIONS)
            return {"secondsPerMatrix": timed(run), "missed": truth.missed(left=left[:rank].t())}

        attempt(f"Xgesvdr, {name}, rank {rank}+{OVERSAMPLING}", randomised)
    for name, _, grams, truth, rank in problems():

        def batched():
            run, vectors = solver.eigen(grams)
            seconds = timed(run)
            right = vectors[0].flip(0)[:rank].t()
            return {"secondsPerMatrix": seconds / len(grams), "missed": truth.missed(right=right)}

        attempt(f"XsyevBatched, {len(grams)} Gram matrices of {name}", batched)


def main():
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    report("device", device=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda)
    layer()
    attempt("moment of inputs, 4096", lambda: moment(4096))
    decompositions()
    solvers(Solver())
    report("seconds of all", seconds=time.monotonic() - START)


if __name__ == "__main__":
    main()
