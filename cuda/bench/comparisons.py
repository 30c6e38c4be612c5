"""What cuda/bench/compare.py measures: what PyTorch, cuBLAS and cuSOLVER take for the work of kernels/calibrate.h and
kernels/eigen.h. A process of it prints the names of all comparisons, and then the rows from the given one on. A row
with "fault" is its last: a GPU's fault ends all that a process could do."""

import ctypes
import functools
import json
import math
import sys
import traceback

import torch

SEQUENCES, LENGTH = 8, 512
TOKENS = SEQUENCES * LENGTH
LAYER = {
    "q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096),
    "gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336),
}
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
OVERSAMPLING, ITERATIONS = 16, 4
# (batch, tall, thin, rank)
SHAPES = ((90, 576, 576, 128), (30, 1536, 576, 128), (1, 4096, 4096, 1008))
KINDS = ("fp64", "fp32")


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

    seconds = {
        "forward": timed(lambda: x @ w.t()),
        "inputGradient": timed(lambda: g @ w),
        "weightGradient": timed(lambda: g.t() @ x),
        "weightGradientBySequence": timed(lambda: torch.bmm(gs.transpose(1, 2), xs)),
        "forwardAndBackward": timed(autograd),
        "scores": timed(scores),
    }
    flops = {k: 2.0 * TOKENS * m * n * (3 if k == "forwardAndBackward" else 1) for k in seconds}
    return {"seconds": seconds, "tflops": {k: flops[k] / v / 1e12 for k, v in seconds.items()}}


def moment(n):
    x = torch.randn(TOKENS, n, device="cuda", dtype=torch.bfloat16)
    return {"seconds": timed(lambda: torch.mm(x.t(), x, out_dtype=torch.float32))}


# What lies between the products of a layer's passes, and all of a layer.

def random_leaf(*shape):
    return (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) / math.sqrt(shape[-1])).requires_grad_()


def attended(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attention():
    q, k, v = (random_leaf(SEQUENCES, heads, LENGTH, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    g = torch.randn_like(q)

    def autograd():
        attended(q, k, v).backward(g)
        q.grad = k.grad = v.grad = None

    with torch.no_grad():
        forward = timed(lambda: attended(q, k, v))
    return {"seconds": {"attention": forward, "attentionAndBack": timed(autograd)}}


def layer():
    """A layer, forward and backward with the gradients of its weights."""
    hidden = LAYER["q"][1]
    x, g = random_leaf(SEQUENCES, LENGTH, hidden), torch.randn(SEQUENCES, LENGTH, hidden, device="cuda",
                                                              dtype=torch.bfloat16)
    weights = {name: random_leaf(m, n) for name, (m, n) in LAYER.items()}
    norms = [torch.ones(hidden, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    frequencies = 5e5 ** (-torch.arange(0, HEAD_DIM, 2, device="cuda") / HEAD_DIM)
    angles = torch.outer(torch.arange(LENGTH, device="cuda"), frequencies)
    cosine, sine = (f(torch.cat((angles, angles), -1)).to(torch.bfloat16) for f in (torch.cos, torch.sin))
    functional = torch.nn.functional

    def heads_of(y, count):
        return y.view(SEQUENCES, LENGTH, count, HEAD_DIM).transpose(1, 2)

    def turned(y):
        low, high = y.chunk(2, -1)
        return y * cosine + torch.cat((-high, low), -1) * sine

    def linear(y, name):
        return functional.linear(y, weights[name])

    def autograd():
        y = functional.rms_norm(x, (hidden,), norms[0], 1e-5)
        q, k = turned(heads_of(linear(y, "q"), HEADS)), turned(heads_of(linear(y, "k"), KV_HEADS))
        mixed = attended(q, k, heads_of(linear(y, "v"), KV_HEADS))
        middle = x + linear(mixed.transpose(1, 2).reshape(SEQUENCES, LENGTH, hidden), "o")
        y = functional.rms_norm(middle, (hidden,), norms[1], 1e-5)
        out = middle + linear(functional.silu(linear(y, "gate")) * linear(y, "up"), "down")
        out.backward(g)
        for leaf in (x, *norms, *weights.values()):
            leaf.grad = None

    return {"seconds": {"layerAndBack": timed(autograd)}}


def losses():
    """Of logits in f32 against given labels, and their gradients."""
    logits = torch.randn(256, 128256, device="cuda", requires_grad=True)
    labels = torch.full((256,), 1000, device="cuda")

    def autograd():
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
        logits.grad = None

    return {"seconds": {"lossesAndBack": timed(autograd)}}


# Eigenvectors and singular vectors.

def type_of(kind):
    return {"fp64": torch.float64, "fp32": torch.float32}[kind]


@functools.cache
def factors(batch, tall, thin):
    """Random matrices in fp64 with a spectrum that falls as that of whitened weights does."""
    generator = torch.Generator(device="cuda").manual_seed(1)
    a = torch.randn(batch, tall, thin, device="cuda", dtype=torch.float64, generator=generator)
    return a * torch.arange(1, thin + 1, device="cuda", dtype=torch.float64).pow(-0.75)


def grams(batch, tall, thin, kind):
    a = factors(batch, tall, thin)
    return (a.transpose(1, 2) @ a).to(type_of(kind))


@functools.cache
def best_missed(batch, tall, thin, rank):
    """What the best approximation of the first factor by `rank` misses, from fp64."""
    values = torch.linalg.eigvalsh(grams(batch, tall, thin, "fp64")[0])
    return math.sqrt(values[:-rank].clamp(min=0).sum().item())


def missed(shape, right=None, left=None):
    """By how much more than that singular vectors [thin, r] or [tall, r] miss it."""
    batch, tall, thin, rank = shape
    a = factors(batch, tall, thin)[0]
    if right is None:
        left = left[:, :rank].to(torch.float64)
        rest = a - left @ (left.t() @ a)
    else:
        right = right[:, :rank].to(torch.float64)
        rest = a - (a @ right) @ right.t()
    return torch.linalg.norm(rest).item() / best_missed(*shape) - 1


def eigh(shape, kind):
    matrices = grams(*shape[:3], kind)
    return {"secondsPerMatrix": timed(lambda: torch.linalg.eigh(matrices)) / len(matrices)}


def svd(shape, kind, driver):
    a = factors(*shape[:3])[0].to(type_of(kind))
    results = []

    def run():
        results[:] = torch.linalg.svd(a, full_matrices=False, driver=driver)

    return {"secondsPerMatrix": timed(run), "missed": missed(shape, left=results[0])}


class Solver:
    """cuSOLVER's functions that PyTorch has no way to call."""

    DOUBLE, FLOAT = 1, 0  # cudaDataType
    VECTORS, LOWER = 1, 0  # cusolverEigMode_t, cublasFillMode_t

    def __init__(self):
        torch.linalg.svd(torch.eye(8, device="cuda"), driver="gesvd")
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "libcusolver.so" in line}
        if not paths:
            raise RuntimeError("PyTorch has opened no cuSOLVER")
        self.library = ctypes.CDLL(sorted(paths)[0])
        self.handle, self.params = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cusolverDnCreate", ctypes.byref(self.handle))
        self.call("cusolverDnCreateParams", ctypes.byref(self.params))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.call("cusolverDnSetStream", self.handle, stream)
        version = ctypes.c_int()
        self.call("cusolverGetVersion", ctypes.byref(version))
        self.version = version.value

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} gives {status}")

    @staticmethod
    def type_of(tensor):
        return Solver.DOUBLE if tensor.dtype == torch.float64 else Solver.FLOAT

    def workspace(self, name, *arguments, behind=()):
        """The device's and the host's working memory, as the call takes them."""
        device, host = ctypes.c_size_t(), ctypes.c_size_t()
        self.call(name, *arguments, ctypes.byref(device), ctypes.byref(host), *behind)
        # XsyevBatched of some versions (11.7.1) goes wrong on memory that is not zeros (pytorch/pytorch#192483).
        space = torch.zeros(max(1, device.value), device="cuda", dtype=torch.uint8)
        host_space = ctypes.create_string_buffer(max(1, host.value))
        return space, [ctypes.c_void_p(space.data_ptr()), device, host_space, host]

    @staticmethod
    def check(info):
        if info.any().item():
            raise RuntimeError(f"info is {info.tolist()}"[:100])

    def randomised(self, a, rank, oversampling, iterations):
        """Xgesvdr of one matrix; returns run() and U [m, m], a vector a row, after it."""
        m, n = a.shape
        kept = a.t().contiguous()  # column-major
        work = kept.clone()
        kind = self.type_of(a)
        s = torch.empty(min(m, n), device="cuda", dtype=a.dtype)
        u = torch.empty(m, m, device="cuda", dtype=a.dtype)
        v = torch.empty(n, n, device="cuda", dtype=a.dtype)
        info = torch.zeros(1, device="cuda", dtype=torch.int32)
        long, char, pointer = ctypes.c_int64, ctypes.c_byte, ctypes.c_void_p
        head = [self.handle, self.params, char(ord("S")), char(ord("S")), long(m), long(n), long(rank),
                long(oversampling), long(iterations), kind, pointer(work.data_ptr()), long(m), kind,
                pointer(s.data_ptr()), kind, pointer(u.data_ptr()), long(m), kind, pointer(v.data_ptr()), long(n), kind]
        space, spaces = self.workspace("cusolverDnXgesvdr_bufferSize", *head)

        def run(_=space):
            work.copy_(kept)
            self.call("cusolverDnXgesvdr", *head, *spaces, pointer(info.data_ptr()))

        run()
        self.check(info)
        return run, u

    def eigen(self, matrices):
        """XsyevBatched; returns run() and the vectors, [batch][n][n] as rows in rising order, after it."""
        batch, n, _ = matrices.shape
        work = matrices.clone()
        kind = self.type_of(matrices)
        values = torch.empty(batch, n, device="cuda", dtype=matrices.dtype)
        info = torch.zeros(batch, device="cuda", dtype=torch.int32)
        long, pointer = ctypes.c_int64, ctypes.c_void_p
        head = [self.handle, self.params, self.VECTORS, self.LOWER, long(n), kind, pointer(work.data_ptr()), long(n),
                kind, pointer(values.data_ptr()), kind]
        # Of the two calls one has the batch behind the sizes of the working memory, the other behind `info`.
        space, spaces = self.workspace("cusolverDnXsyevBatched_bufferSize", *head, behind=[long(batch)])

        def run(_=space):
            work.copy_(matrices)
            self.call("cusolverDnXsyevBatched", *head, *spaces, pointer(info.data_ptr()), long(batch))

        run()
        self.check(info)
        return run, work


@functools.cache
def solver():
    return Solver()


def xgesvdr(shape, kind):
    rank = shape[3]
    run, left = solver().randomised(factors(*shape[:3])[0].to(type_of(kind)), rank, OVERSAMPLING, ITERATIONS)
    return {"secondsPerMatrix": timed(run), "missed": missed(shape, left=left[:rank].t())}


def xsyev(shape, kind):
    run, vectors = solver().eigen(grams(*shape[:3], kind))
    seconds = timed(run)
    return {"secondsPerMatrix": seconds / shape[0], "missed": missed(shape, right=vectors[0].flip(0)[:shape[3]].t())}


def comparisons():
    """(name, what gives the figures of its row); what PyTorch does not call comes last."""
    yield "device", lambda: {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                             "cuda": torch.version.cuda}
    for name, (m, n) in LAYER.items():
        yield f"{name}, {m}x{n}, {SEQUENCES} sequences of {LENGTH}", functools.partial(products, m, n)
    yield f"attention, {HEADS}/{KV_HEADS} heads of {HEAD_DIM}, {SEQUENCES} sequences of {LENGTH}", attention
    yield f"a whole layer, {SEQUENCES} sequences of {LENGTH}", layer
    yield "losses of logits, 256 rows of 128256", losses
    yield "moment of inputs, 4096", functools.partial(moment, 4096)
    problems = [(f"{shape[1]}x{shape[2]}, {kind}", shape, kind) for shape in SHAPES for kind in KINDS]
    for name, shape, kind in problems:
        # Of the large one gesvd alone would take all the time there is.
        for driver in ("gesvd", "gesvdj", "gesvda") if shape[2] < 2000 else ():
            yield f"{driver}, {name}", functools.partial(svd, shape, kind, driver)
        yield f"torch.linalg.eigh, {shape[0]} Gram matrices of {name}", functools.partial(eigh, shape, kind)
    yield "cuSOLVER", lambda: {"version": solver().version}
    for name, shape, kind in problems:
        yield f"Xgesvdr, {name}, rank {shape[3]}+{OVERSAMPLING}", functools.partial(xgesvdr, shape, kind)
    for name, shape, kind in problems:
        yield f"XsyevBatched, {shape[0]} Gram matrices of {name}", functools.partial(xsyev, shape, kind)


def gpu_answers():
    try:
        torch.cuda.synchronize()
    except Exception:
        return False
    return True


def main():
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # Fails at once where there is no GPU.
    torch.zeros(1, device="cuda")
    every = list(comparisons())
    print(json.dumps([name for name, _ in every]), flush=True)
    for name, measure in every[int(sys.argv[1]):]:
        try:
            row = measure()
            torch.cuda.synchronize()
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"[:300]}
            traceback.print_exc()
            if not gpu_answers():
                row["fault"] = True
        print(json.dumps({"name": name, **row}), flush=True)
        if "fault" in row:
            return


if __name__ == "__main__":
    main()
