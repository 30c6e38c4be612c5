"""Rotary frequencies by transformers, and GGUF blocks by the gguf package's own dequantiser."""

import base64
import json
import math

import gguf
import numpy as np
from safetensors.numpy import save_file
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def yarn(**more):
    return {"head_dim": 128, "rope_theta": 1e6, "max_position_embeddings": 131072, "rope_scaling": {**YARN, **more}}


FACTORS = {
    "short_factor": [1 + 0.02 * i for i in range(32)],
    "long_factor": [1 + 1.5 * i for i in range(32)],
}


def longrope(outer=None, **more):
    return {
        "head_dim": 64,
        "rope_theta": 1e4,
        "max_position_embeddings": 131072,
        **(outer or {}),
        "rope_scaling": {"rope_type": "longrope", **FACTORS, **more},
    }


# The fields of config.json that decide the frequencies, in the classic published form.
ROPE_CASES = {
    "default": {"head_dim": 64, "rope_theta": 1e5, "max_position_embeddings": 8192, "rope_scaling": None},
    "linear": {
        "head_dim": 128,
        "rope_theta": 1e4,
        "max_position_embeddings": 16384,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "dynamic": {
        "head_dim": 128,
        "rope_theta": 5e7,
        "max_position_embeddings": 32768,
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
    },
    "llama3-8": {
        "head_dim": 128,
        "rope_theta": 5e5,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama3-32": {
        "head_dim": 64,
        "rope_theta": 5e5,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "yarn": yarn(),
    "yarn-attention-factor": yarn(attention_factor=1.25),
    "yarn-betas": yarn(beta_fast=24.0, beta_slow=2.0),
    "yarn-untruncated": yarn(truncate=False),
    "yarn-mscale": yarn(mscale=0.707, mscale_all_dim=1.1),
    "longrope": longrope(original_max_position_embeddings=4096),
    "longrope-factor": longrope(original_max_position_embeddings=4096, factor=8.0),
    "longrope-attention-factor": longrope(original_max_position_embeddings=4096, attention_factor=1.5),
    "longrope-no-longer": longrope(original_max_position_embeddings=131072),
    # As Phi-3 has it; there the outer length counts.
    "longrope-phi3": longrope({"model_type": "phi3", "original_max_position_embeddings": 4096}),
    "longrope-phi3-both": longrope(
        {"model_type": "phi3", "original_max_position_embeddings": 8192}, original_max_position_embeddings=4096
    ),
    "llama3-both": {
        "head_dim": 64,
        "rope_theta": 5e5,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    # Without mscale_all_dim, mscale has no effect.
    "yarn-mscale-alone": yarn(mscale=0.707),
}


def rope_case(name, fields):
    """inv_freq [head_dim / 2] (float32 values) and the factor that cos and sin are multiplied with."""
    heads = 2
    copy = {"model_type": "llama", **json.loads(json.dumps(fields))}  # the configuration rewrites what it is given
    config = AutoConfig.for_model(hidden_size=heads * fields["head_dim"], num_attention_heads=heads, **copy)
    kind = config.rope_parameters["rope_type"]
    compute = LlamaRotaryEmbedding.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    inv_freq, scaling = compute(config)
    return {"name": name, "config": fields, "invFreq": inv_freq.tolist(), "attentionScaling": scaling}


def make_rope(path):
    cases = [rope_case(name, fields) for name, fields in ROPE_CASES.items()]
    path.write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{path.name}: {len(cases)} cases")


# Per type: where a block holds float16 scales (byte offsets); every other byte may be anything.
SCALE_OFFSETS = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}
BLOCKS = 2
PLAIN_VALUES = 32  # F16 and BF16 have no blocks


def random_blocks(kind, generator):
    """uint8 [bytes]: two blocks of random bytes with finite scales of either sign."""
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = generator.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for block in blocks:
        for offset in SCALE_OFFSETS[kind]:
            scale = np.float16(generator.uniform(0.001, 0.1) * generator.choice([-1, 1]))
            block[offset : offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(-1)


def plain_values(kind, generator):
    """uint8 [bytes]: normal, subnormal, zero and negative-zero values as F16 or BF16."""
    values = generator.standard_normal(PLAIN_VALUES).astype(np.float32)
    values[:6] = [0.0, -0.0, 1.0, -65504.0, 6e-8, -3e-6]  # the last two are subnormal in F16
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]).view(np.uint8).reshape(-1)


def make_dequant(path):
    generator = np.random.default_rng(1)
    encode = lambda array: base64.b64encode(array.tobytes()).decode()
    cases, arrays = [], {}
    for kind in ["F16", "BF16", *SCALE_OFFSETS]:
        data = plain_values(kind, generator) if kind in ("F16", "BF16") else random_blocks(kind, generator)
        quant = gguf.GGMLQuantizationType[kind]
        values = gguf.quants.dequantize(data, quant).astype("<f4").reshape(-1)
        assert all(math.isfinite(v) for v in values)
        cases.append({"type": kind, "ggmlType": quant.value, "count": len(values), "bytes": encode(data), "float32": encode(values)})
        # The same for the C++ tests, which read safetensors.
        arrays |= {f"{kind}.bytes": data.copy(), f"{kind}.values": values.copy()}
    path.write_text(json.dumps(cases, indent=1) + "\n")
    save_file(arrays, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").chmod(0o644)
    print(f"{path.name}: {', '.join(case['type'] for case in cases)}")
