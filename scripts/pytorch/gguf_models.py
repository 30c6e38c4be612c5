"""Fixtures' models as GGUF files in float32, by the gguf package's writer and its own names, with the metadata that
llama.cpp's converter writes."""

import gguf
import numpy as np

ARCHITECTURES = {
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}


def interleaved(weight, heads):
    """[rows, n]: each head's two halves as neighbours, as llama.cpp rotates them."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def add_metadata(writer, config):
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    match config["model_type"]:
        case "gemma3_text":
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
            writer.add_sliding_window(config["sliding_window"])
            writer.add_uint32("gemma3.attention.sliding_window_pattern", config["sliding_window_pattern"])
            writer.add_float32("gemma3.rope.freq_base_swa", config["rope_local_base_freq"])
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
        case "granite":
            writer.add_attention_scale(config["attention_multiplier"])
            writer.add_embedding_scale(config["embedding_multiplier"])
            writer.add_residual_scale(config["residual_multiplier"])
            writer.add_logit_scale(config["logits_scaling"])
            writer.add_rope_dimension_count(config["hidden_size"] // heads)
        case "smollm3":
            writer.add_rope_dimension_count(config["hidden_size"] // heads)


def add_vocabulary(writer, config):
    """Byte-level BPE with one merge: enough to open the file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smaug-bpe" if config["model_type"] == "smollm3" else "gpt-2")
    writer.add_token_list(['!"'] + [chr(ord("!") + i) if i < 90 else f"<{i}>" for i in range(config["vocab_size"] - 1)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def write(path, config, weights):
    """The file of a config.json and its model's tensors by their published names."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    add_metadata(writer, config)
    add_vocabulary(writer, config)
    for name, tensor in weights.items():
        values = tensor.numpy()
        if architecture == gguf.MODEL_ARCH.GEMMA3 and name.endswith("norm.weight"):
            values = values + np.float32(1)
        elif architecture != gguf.MODEL_ARCH.GEMMA3 and name.endswith(("q_proj.weight", "k_proj.weight")):
            queries = name.endswith("q_proj.weight")
            values = interleaved(values, config["num_attention_heads" if queries else "num_key_value_heads"])
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
