"""A fixture's model as a GGUF file, by the gguf package's writer, with the metadata that llama.cpp's converter writes."""

import math

import gguf
import numpy as np

Q8_0 = gguf.GGMLQuantizationType.Q8_0

OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def ggml_name(name):
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, path = stem.split(".", 3)
    return f"blk.{layer}.{IN_LAYER[path]}.weight"


def quantised(weight):
    """float32 [m, n] as Q8_0 rows where n divides into its blocks, else undefined."""
    return gguf.quants.quantize(weight, Q8_0) if weight.ndim == 2 and weight.shape[1] % 32 == 0 else None


def rounded(weight):
    """float32 [m, n]: the values that Q8_0 gives back, unchanged where rows don't divide into blocks."""
    blocks = quantised(weight)
    return weight if blocks is None else gguf.quants.dequantize(blocks, Q8_0)


def add_vocabulary(writer, config):
    """SentencePiece as Phi-3 has it: control tokens and single characters."""
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    pieces = ["\u2581", *(chr(c) for c in range(ord("!"), ord("~") + 1))]
    tokens = [*special, *pieces][: config["vocab_size"]]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * (len(special) - 1)
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"][0])  # the other is known by its text, <|end|>
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def write(path, config, weights):
    """Phi-3 of this config.json: fused projections in Q8_0, rope factors as tensors, the rest in float32."""
    writer = gguf.GGUFWriter(path, "phi3")
    original, longest = config["original_max_position_embeddings"], config["max_position_embeddings"]
    scaling = config["rope_scaling"]
    writer.add_context_length(longest)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rotated = int(config.get("partial_rotary_factor", 1.0) * config["hidden_size"])
    writer.add_rope_dimension_count(rotated // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(longest / original) / math.log(original)))
    for length in ("long", "short"):
        writer.add_tensor(f"rope_factors_{length}.weight", np.array(scaling[f"{length}_factor"], np.float32))
    add_vocabulary(writer, config)
    for name, tensor in weights.items():
        values = tensor.numpy()
        blocks = quantised(values) if "proj" in name else None
        if blocks is None:
            writer.add_tensor(ggml_name(name), values)
        else:
            assert np.array_equal(gguf.quants.dequantize(blocks, Q8_0), values), f"{name} is not what its blocks hold"
            writer.add_tensor(ggml_name(name), blocks, raw_dtype=Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
