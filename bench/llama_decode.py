"""llama.cpp's side of bench/llama.ts: its own decoding loop, without sampling, through its C interface.

Needs llama-cpp-python==0.3.36, compiled on the machine (pip install --no-binary llama-cpp-python).

    python bench/llama_decode.py quantize SOURCE.gguf TYPE TARGET.gguf
    python bench/llama_decode.py serve THREADS CONTEXT MODEL.gguf ...

`serve` prints a line when all models are loaded and then answers each line {model, prompt, tokens} of stdin, where
model is an index and prompt a list of token ids, with a line {prefill, decode} of seconds.
"""

import ctypes
import json
import sys
import time

import llama_cpp as lib

TYPES = {"BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q4_K_M": 15}


@lib.llama_log_callback
def silent(_level, _text, _data):
    pass


def quantize(source, kind, target):
    options = lib.llama_model_quantize_default_params()
    options.ftype = TYPES[kind]
    options.allow_requantize = True
    status = lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if status != 0:
        raise SystemExit(f"{source} could not be quantised to {kind}: status {status}")


class Runner:
    def __init__(self, path, threads, context):
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = context
        options.n_threads = options.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, options) if self.model else None
        if not self.context:
            raise SystemExit(f"{path} could not be loaded")

    def decode(self, tokens):
        # A batch only points to its tokens.
        ids = (lib.llama_token * len(tokens))(*tokens)
        if lib.llama_decode(self.context, lib.llama_batch_get_one(ids, len(tokens))) != 0:
            raise SystemExit("llama_decode failed")
        # Waits for what is still computed.
        lib.llama_synchronize(self.context)

    def run(self, prompt, tokens):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        begin = time.perf_counter()
        self.decode(prompt)
        first = time.perf_counter()
        for i in range(tokens):
            self.decode([prompt[i % len(prompt)]])
        return {"prefill": first - begin, "decode": time.perf_counter() - first}


def serve(threads, context, *models):
    runners = [Runner(path, int(threads), int(context)) for path in models]
    print(json.dumps({"ready": len(runners)}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(runners[job["model"]].run(job["prompt"], job["tokens"])), flush=True)


if __name__ == "__main__":
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    {"quantize": quantize, "serve": serve}[sys.argv[1]](*sys.argv[2:])
