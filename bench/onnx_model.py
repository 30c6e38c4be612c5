"""A Llama model of a Hugging Face directory as ONNX, laid out as transformers.js expects it: the counterpart of
models/tiny in `npm run bench -- start-up`.

    pip install onnx==1.23.2 numpy
    python bench/onnx_model.py models/tiny OUT/tiny

Weights in fp32; attention with its cache and norms are ONNX Runtime's own operations, as its model builder writes them.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def bf16_tensors(file: Path) -> dict[str, np.ndarray]:
    """All tensors as fp32; numpy has no bf16."""
    raw = file.read_bytes()
    header_bytes = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + header_bytes]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", name
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(raw[8 + header_bytes + begin : 8 + header_bytes + end], np.uint16)
        tensors[name] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    return tensors


class Graph:
    def __init__(self) -> None:
        self.nodes, self.weights = [], []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]


def build(config: dict, tensors: dict[str, np.ndarray]):
    heads, kv_heads, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    graph = Graph()

    def norm(x: str, name: str) -> str:
        scale = graph.weight(f"{name}.weight", tensors[f"{name}.weight"])
        epsilon = config["rms_norm_eps"]
        return graph.node("SimplifiedLayerNormalization", [x, scale], [f"{name}.out"], axis=-1, epsilon=epsilon)

    def linear(x: str, name: str) -> str:
        return graph.node("MatMul", [x, graph.weight(f"{name}.T", tensors[f"{name}.weight"].T)], [f"{name}.out"])

    # Positions come from the mask: its sum less one, and its length.
    one = graph.weight("one", np.array([1], np.int64))
    sums = graph.node("ReduceSum", ["attention_mask", one], ["mask.sum"], keepdims=0)
    last = graph.node("Cast", [graph.node("Sub", [sums, one], ["mask.last"])], ["seqlens_k"], to=TensorProto.INT32)
    shape = graph.node("Shape", ["attention_mask"], ["mask.shape"])
    index = graph.weight("index", np.array(1, np.int64))
    length = graph.node("Gather", [shape, index], ["mask.length"], axis=0)
    total = graph.node("Cast", [length], ["total"], to=TensorProto.INT32)

    angles = np.outer(
        np.arange(config["max_position_embeddings"]), config["rope_theta"] ** (-np.arange(0, head, 2) / head)
    )
    cos = graph.weight("cos", np.cos(angles).astype(np.float32))
    sin = graph.weight("sin", np.sin(angles).astype(np.float32))

    embeddings = tensors["model.embed_tokens.weight"]
    x = graph.node("Gather", [graph.weight("embed", embeddings), "input_ids"], ["embedded"])
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm")
        q, k, v = (linear(y, f"{at}.self_attn.{kind}_proj") for kind in "qkv")
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        y = graph.node(
            "GroupQueryAttention",
            [q, k, v, *past, last, total, cos, sin],
            [f"{at}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=kv_heads,
            do_rotary=1,
        )
        x = graph.node("Add", [x, linear(y, f"{at}.self_attn.o_proj")], [f"{at}.middle"])
        y = norm(x, f"{at}.post_attention_layernorm")
        gate, up = linear(y, f"{at}.mlp.gate_proj"), linear(y, f"{at}.mlp.up_proj")
        sigmoid = graph.node("Sigmoid", [gate], [f"{at}.sigmoid"])
        silu = graph.node("Mul", [gate, sigmoid], [f"{at}.silu"])
        y = linear(graph.node("Mul", [silu, up], [f"{at}.gated"]), f"{at}.mlp.down_proj")
        x = graph.node("Add", [x, y], [f"{at}.out"])
    graph.node("MatMul", [norm(x, "model.norm"), graph.weight("head", embeddings.T)], ["logits"])

    def tensor(name: str, kind: int, *shape: int | str):
        return helper.make_tensor_value_info(name, kind, shape)

    def cache(side: str, length: str) -> list:
        return [
            tensor(f"{side}.{layer}.{part}", TensorProto.FLOAT, "batch_size", kv_heads, length, head)
            for layer in range(config["num_hidden_layers"])
            for part in ("key", "value")
        ]

    inputs = [tensor(name, TensorProto.INT64, "batch_size", at) for name, at in
              (("input_ids", "sequence"), ("attention_mask", "total_sequence"))]
    outputs = [tensor("logits", TensorProto.FLOAT, "batch_size", "sequence", config["vocab_size"])]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "llama",
            [*inputs, *cache("past_key_values", "past_sequence")],
            [*outputs, *cache("present", "total_sequence")],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((source / "config.json").read_text())
    (target / "onnx").mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    save(build(config, bf16_tensors(source / "model.safetensors")), target / "onnx" / "model.onnx")


main()
