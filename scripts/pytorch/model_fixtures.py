"""Tiny random models of every supported architecture, with transformers' answers in float64."""

import copy
import json
import math
import re

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import calibration_reference
import gguf_fixture
import gguf_models

SEQUENCES, LENGTH, GREEDY = 4, 40, 12

COMMON = {
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 96,
}

# What published Phi-3 configurations have beside their shapes: dropout, which only training uses, and the name of code.
PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    "model_type": "phi3",
    "attention_bias": False,
    "attention_dropout": 0.1,
    "embd_pdrop": 0.1,
    "pad_token_id": 0,
    "resid_pdrop": 0.1,
}

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False}

# config.json as such models are published. rope_theta is small so that a head of 8 has frequencies on
# both sides of every scaling's boundaries within 40 positions.
VARIANTS = {
    "llama": {**COMMON, **LLAMA, "rope_theta": 10000.0, "rope_scaling": None},
    "llama3-scaled": {
        **COMMON,
        **LLAMA,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    # "type" is the older spelling of "rope_type".
    "llama-linear": {**COMMON, **LLAMA, "head_dim": 8, "rope_scaling": {"type": "linear", "factor": 4.0}},
    # The form that transformers 5 writes: everything about positions in rope_parameters.
    "llama-yarn": {
        **{k: v for k, v in COMMON.items() if k != "rope_theta"},
        **LLAMA,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        **COMMON,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "phi3": {
        **COMMON,
        **PHI3,
        "original_max_position_embeddings": 128,
        "rope_scaling": None,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "phi3-longrope": {
        **COMMON,
        **PHI3,
        "eos_token_id": [1, 5],
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.25, 1.5, 2.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0],
        },
        "sliding_window": 262144,
    },
    # As Phi-4-mini: 6 of 8 dimensions of a head are rotated.
    "phi3-partial": {
        **COMMON,
        **PHI3,
        "eos_token_id": [1, 5],
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.0, 4.0, 8.0]},
        "sliding_window": None,
    },
    # A sliding_window that use_sliding_window switches off, as published Qwen configurations have.
    "qwen2": {
        **COMMON,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "sliding_window": 8,
        "use_sliding_window": False,
        "max_window_layers": 2,
    },
    "qwen3": {
        **COMMON,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 16,
        "intermediate_size": 40,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 2,
        "tie_word_embeddings": False,
    },
    # The fourth layer has no rotary embedding, as GGUF files take for granted.
    "smollm3": {
        **COMMON,
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "attention_bias": False,
        "mlp_bias": False,
        "intermediate_size": 40,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "num_hidden_layers": 4,
        "pad_token_id": 0,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    # Every second layer attends to everything, with a rotation of its own.
    "gemma3": {
        **{k: v for k, v in COMMON.items() if k != "hidden_act"},
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "final_logit_softcapping": None,
        "head_dim": 16,
        "hidden_activation": "gelu_pytorch_tanh",
        "pad_token_id": 0,
        "query_pre_attn_scalar": 16,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 20.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    },
    "granite": {
        **COMMON,
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "attention_bias": False,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 2.0,
        "logits_scaling": 1.5,
        "mlp_bias": False,
        "residual_multiplier": 0.7,
        "rope_scaling": None,
    },
}


# Other names of models that are Llama but for what their configurations leave out: logits alone show that it is filled in.
LOOKALIKES = {
    # Every fourth layer attends to all; its own default scaling, of positions beyond these.
    "cwm": {
        **{k: v for k, v in COMMON.items() if k != "rope_theta"},
        "architectures": ["CwmForCausalLM"],
        "model_type": "cwm",
        "head_dim": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "internlm3": {
        **COMMON,
        "architectures": ["InternLM3ForCausalLM"],
        "model_type": "internlm3",
        "bias": True,
        "head_dim": 8,
        "qkv_bias": True,
        "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
    },
    "iquestcoder": {
        **COMMON,
        "architectures": ["IQuestCoderForCausalLM"],
        "model_type": "iquestcoder",
        "head_dim": 8,
    },
    "ministral": {
        **COMMON,
        "architectures": ["MinistralForCausalLM"],
        "model_type": "ministral",
        "head_dim": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 8,
    },
    # Queries are scaled from the trained context on, which is beyond these positions.
    "ministral3": {
        **{k: v for k, v in COMMON.items() if k != "rope_theta"},
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "head_dim": 16,
        "rope_parameters": {
            "beta_fast": 4.0,
            "beta_slow": 1.0,
            "factor": 2.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 100.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "sliding_window": None,
    },
    # attention_bias is true unless said.
    "seed_oss": {
        **COMMON,
        "architectures": ["SeedOssForCausalLM"],
        "model_type": "seed_oss",
        "head_dim": 16,
        "pad_token_id": 1,
        "residual_dropout": 0.1,
        "tie_word_embeddings": False,
    },
}

# Seeds whose model passes make_variant's checks (no close calls, no endless repetition).
SEEDS = {
    "llama": 2,
    "llama3-scaled": 3,
    "llama-linear": 2,
    "llama-yarn": 1,
    "mistral": 1,
    "phi3": 1,
    "phi3-longrope": 2,
    "phi3-partial": 3,
    "qwen2": 2,
    "qwen3": 1,
    "smollm3": 2,
    "gemma3": 7,
    "granite": 2,
}
LOOKALIKE_SEEDS = {"cwm": 1, "internlm3": 2, "iquestcoder": 2, "ministral": 2, "ministral3": 1, "seed_oss": 1}
# Written as a GGUF file, too.
GGUF = {"phi3-longrope", "phi3-partial"}


def norm_offset(model):
    """What a norm adds to its weights."""
    return 1.0 if model.config.model_type.startswith("gemma") else 0.0


def randomise(model, generator):
    """Random weights that leave no term trivial: peaked logits, uneven norm weights, non-zero biases."""
    offset = norm_offset(model)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if name == "model.norm.weight":
            tensor.data = noise - offset  # of either sign, or a tied model would mostly repeat its last token
        elif name.endswith("norm.weight"):
            tensor.data = 1 + 0.3 * noise - offset
        elif name.endswith("bias"):
            tensor.data = 0.3 * noise
        elif name.endswith("proj.weight"):
            tensor.data = 1.2 * noise / math.sqrt(tensor.shape[1])
        else:
            tensor.data = 0.8 * noise  # embedding and lm_head
        if offset and name.endswith("norm.weight"):
            tensor.data = tensor.data.bfloat16().float()  # as published: 1 + w is exact then


def round_to_blocks(model):
    """The projections as the blocks of a GGUF file hold them, so that both files are one model."""
    for name, tensor in model.named_parameters():
        if name.endswith("proj.weight"):
            tensor.data = torch.from_numpy(gguf_fixture.rounded(tensor.detach().numpy()))


def norm_forward(module, x):
    return module.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon))


def offset_norm_forward(module, x):
    return (1 + module.weight) * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.eps))


def rotary_forward(module, x, position_ids, layer_type=None):
    """cos and sin [B, T, head_dim] in x's own precision; frequencies as rounded by transformers (float32)."""
    inv_freq, scaling = rotation(module, layer_type)
    angles = position_ids[..., None].to(x.dtype) * inv_freq.to(x.dtype)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * scaling, angles.sin() * scaling


def rotation(module, layer_type):
    """Frequencies and the factor on cos and sin, of a kind of layer where they have their own."""
    prefix = f"{layer_type}_" if hasattr(module, f"{layer_type}_inv_freq") else ""
    return getattr(module, f"{prefix}inv_freq"), getattr(module, f"{prefix}attention_scaling")


def in_float64(model):
    """The model in true float64: transformers' norms, rotary angles and eager softmax fall back to float32."""
    model = model.double()
    model.set_attn_implementation("sdpa")
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            forward = offset_norm_forward if norm_offset(model) else norm_forward
            module.forward = forward.__get__(module)
        elif kind.endswith("RotaryEmbedding"):
            module.forward = rotary_forward.__get__(module)
    return model


class Fused(torch.nn.Module):
    """A fused projection as the ones it consists of, whose inputs and outputs can then be seen alone."""

    def __init__(self, fused, rows):
        super().__init__()
        for (name, _), weight in zip(rows, fused.weight.detach().split([count for _, count in rows])):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
            linear.weight.data = weight.clone()
            self.add_module(name, linear)

    def forward(self, x):
        return torch.cat([part(x) for part in self.children()], dim=-1)


def separate(model):
    """The same model with every projection on its own."""
    if model.config.model_type == "phi3":
        for layer in model.model.layers:
            attention, mlp, config = layer.self_attn, layer.mlp, model.config
            width, narrow = (n * attention.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
            attention.qkv_proj = Fused(attention.qkv_proj, [("q_proj", width), ("k_proj", narrow), ("v_proj", narrow)])
            half = config.intermediate_size
            mlp.gate_up_proj = Fused(mlp.gate_up_proj, [("gate_proj", half), ("up_proj", half)])
    return model


def projections(model):
    """By their names in models that fuse none."""
    return {
        re.sub(r"\.(qkv|gate_up)_proj\.", ".", name): module
        for name, module in model.named_modules()
        if name.endswith("_proj") and not isinstance(module, Fused)
    }


@torch.no_grad()
def continuation(model, ids, count):
    """`count` greedy tokens after ids [n], and the smallest lead of a winner over its runner-up."""
    ids, lead = ids.clone(), math.inf
    for _ in range(count):
        best = model(ids[None], use_cache=False).logits[0, -1].topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[:1]])
    return ids[-count:], lead


def make_tokens(model, generator):
    """int64 [S, T]: random tokens; every second sequence is the model's own greedy text from token 10 on,
    so that well-predicted tokens (small gradients, which the clip raises) occur beside surprising ones."""
    tokens = torch.randint(model.config.vocab_size, (SEQUENCES, LENGTH), generator=generator)
    for s in range(1, SEQUENCES, 2):
        tokens[s, 10:], _ = continuation(model, tokens[s, :10], LENGTH - 10)
    return tokens


def token_losses(logits, tokens):
    """[S, T - 1]: next-token cross-entropy of logits [S, T, V]."""
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1)


def trace(model, tokens):
    """Logits and, per projection, its inputs X [S, T, n] and output gradients G [S, T, m].

    Sequences do not see each other, so one backward of the total loss gives each its own gradient."""
    inputs, outputs = {}, {}

    def keep(name):
        def hook(_, args, output):
            output.retain_grad()
            inputs[name], outputs[name] = args[0].detach(), output

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in projections(model).items()]
    logits = model(tokens, use_cache=False).logits
    token_losses(logits, tokens).sum().backward()
    for hook in hooks:
        hook.remove()
    return logits.detach(), inputs, {name: output.grad for name, output in outputs.items()}


def native_config(model):
    """What the C++ tests need of the config, which they do not parse: test/native/fixture.cc reads this order."""
    config = model.config
    layer = model.model.layers[0]
    all_projections = projections(model)
    has = lambda name: all_projections[f"model.layers.0.{name}_proj"].bias is not None
    integers = [
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        layer.self_attn.head_dim,
        config.intermediate_size,
        config.vocab_size,
        config.max_position_embeddings,
        config.tie_word_embeddings,
        has("self_attn.q"),
        has("self_attn.o"),
        has("mlp.up"),
        hasattr(layer.self_attn, "q_norm"),
        getattr(layer.self_attn, "sliding_window", None) or getattr(config, "sliding_window", None) or 0,
    ]
    if config.model_type.startswith("qwen") and not config.use_sliding_window:
        integers[-1] = 0
    rotary = model.model.rotary_emb
    kinds = list(dict.fromkeys(reversed(config.layer_types))) if config.model_type == "gemma3_text" else [None]
    ropes = [torch.cat([f.double(), torch.tensor([s], dtype=torch.float64)]) for f, s in (rotation(rotary, k) for k in kinds)]
    return {
        "config.integers": torch.tensor([int(i) for i in integers], dtype=torch.int32),
        "config.eps": torch.tensor([config.rms_norm_eps], dtype=torch.float64),
        "config.rope": ropes[0],
        **unusual_config(config, kinds, ropes),
    }


def unusual_config(config, kinds, ropes):
    """What plain models do without."""
    match config.model_type:
        case "smollm3":
            return {"config.layer_rope": torch.tensor([use - 1 for use in config.no_rope_layers], dtype=torch.int32)}
        case "gemma3_text":
            windows = [config.sliding_window if kind == "sliding_attention" else 0 for kind in config.layer_types]
            query = math.sqrt(config.head_dim / config.query_pre_attn_scalar)
            return {
                "config.windows": torch.tensor(windows, dtype=torch.int32),
                "config.layer_rope": torch.tensor([kinds.index(kind) for kind in config.layer_types], dtype=torch.int32),
                "config.rope.1": ropes[1],
                "config.scales": torch.tensor([math.sqrt(config.hidden_size), query, 1, 1], dtype=torch.float64),
                # GeLU, norms of what a block puts out, what a norm adds to its weights
                "config.kinds": torch.tensor([1, 1, 1], dtype=torch.int32),
            }
        case "granite":
            query = config.attention_multiplier * math.sqrt(config.hidden_size // config.num_attention_heads)
            scales = [config.embedding_multiplier, query, config.residual_multiplier, 1 / config.logits_scaling]
            return {"config.scales": torch.tensor(scales, dtype=torch.float64)}
    return {}


def random_model(name, config, generator):
    """The model of a config.json, and its weights as they are saved."""
    loaded = AutoConfig.for_model(**copy.deepcopy(config))  # which rewrites what it is given
    model = AutoModelForCausalLM.from_config(loaded, attn_implementation="eager", dtype=torch.float32).eval()
    randomise(model, generator)
    if name in GGUF:
        round_to_blocks(model)
    weights = {n: t.detach().clone() for n, t in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    return model, weights


def checked_greedy(name, model, tokens, difference):
    """Greedy tokens after tokens [T], and the smallest lead of a winner.

    `difference` is what patches have changed: not the model, and no greedy choice may hang on rounding."""
    greedy, lead = continuation(model, tokens, GREEDY)
    assert difference < 1e-3, f"{name}: float64 is {difference} from transformers' own float32"
    assert lead > 0.01, f"{name}: a greedy token leads by {lead} only"
    assert len(set(greedy.tolist())) >= GREEDY // 2, f"{name}: greedy tokens {greedy.tolist()} repeat too much"
    return greedy, lead


def write_model(directory, config, weights, expected):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    save_file({k: v.contiguous() for k, v in expected.items()}, directory / "expected.safetensors")


def finish(directory):
    """Makes the files readable by all, as save_file does not, and returns their size."""
    for file in directory.iterdir():
        file.chmod(0o644)
    return sum(file.stat().st_size for file in directory.iterdir())


def make_variant(name, config, directory, seed):
    """Write one variant's folder; returns a line of facts that show the fixture tests what it should."""
    generator = torch.Generator().manual_seed(seed)
    model, weights = random_model(name, config, generator)
    tokens = make_tokens(model, generator)
    with torch.no_grad():
        eager = model(tokens, use_cache=False).logits

    model = in_float64(separate(model))
    logits, X, G = trace(model, tokens)
    difference = (eager - logits).abs().max().item()
    greedy, lead = checked_greedy(name, model, tokens[0], difference)

    expected = {
        **native_config(model),
        "tokens": tokens.int(),
        "logits": logits.float(),
        "greedy": greedy.int(),
        "loss": token_losses(logits, tokens).mean().reshape(1),
    }
    score, raised = {}, 0
    for projection, module in projections(model).items():
        tensors, score[projection] = calibration_reference.references(X[projection], G[projection], module.weight.detach())
        norms = G[projection].norm(dim=-1)
        raised += ((norms > 0) & (norms < 0.1 * norms.mean(1, keepdim=True))).sum().item()
        # The moments of layer 0, whose gradients passed through all others, are enough and keep this small.
        first = projection.startswith("model.layers.0.")
        expected |= {f"{projection}.{k}": v for k, v in tensors.items() if first or k not in "AB"}
        expected[f"{projection}.scores"] = torch.tensor(list(score[projection].values()), dtype=torch.float64)
    assert raised > 0, f"{name}: no gradient was clipped"

    write_model(directory, config, weights, expected)
    if name in GGUF:
        gguf_fixture.write(directory / "model.gguf", config, weights)
    if config["model_type"] in gguf_models.ARCHITECTURES:
        gguf_models.write(directory / "model.gguf", config, weights)
    facts = {
        "seed": seed,
        "loss": expected["loss"].item(),
        "greedy": greedy.tolist(),
        "scores": score,
    }
    (directory / "expected.json").write_text(json.dumps(facts, indent=2) + "\n")
    size = finish(directory)
    probability = logits.softmax(-1).amax(-1).mean().item()
    return f"{name}: loss {facts['loss']:.3f}, mean top probability {probability:.2f}, greedy lead {lead:.3f}, raised {raised}, |f32 - f64| {difference:.1e}, {size} bytes"


def make_lookalike(name, config, directory, seed):
    """Write a folder that shows only that the model is the same one; returns a line of facts."""
    generator = torch.Generator().manual_seed(seed)
    model, weights = random_model(name, config, generator)
    tokens = make_tokens(model, generator)[:1]
    with torch.no_grad():
        eager = model(tokens, use_cache=False).logits
        logits = in_float64(model)(tokens, use_cache=False).logits
    difference = (eager - logits).abs().max().item()
    greedy, lead = checked_greedy(name, model, tokens[0], difference)
    expected = {"tokens": tokens.int(), "logits": logits.float(), "greedy": greedy.int()}
    write_model(directory, config, weights, expected)
    return f"{name}: greedy lead {lead:.3f}, |f32 - f64| {difference:.1e}, {finish(directory)} bytes"


def make_all(out):
    for name, config in VARIANTS.items():
        print(make_variant(name, config, out / name, SEEDS[name]), flush=True)
    for name, config in LOOKALIKES.items():
        print(make_lookalike(name, config, out / name, LOOKALIKE_SEEDS[name]), flush=True)
