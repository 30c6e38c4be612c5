"""Write a GGUF of a larger shape with random weights in BF16 and the tokenizer of a model that is there.

For `npm run bench -- llama` on models larger than those at hand: speed does not depend on what weights say.
Needs numpy and gguf. The default shape is Llama-3.2-1B's, but for the vocabulary.

    python bench/generated_gguf.py MODEL.gguf OUT.gguf [--hidden 2048 --layers 16 --ff 8192 --heads 32 --kv-heads 8]
"""

import argparse

import gguf
import numpy as np


def copy_tokenizer(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            value_type = field.types[0]
            inner = field.types[-1] if value_type == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), value_type, sub_type=inner)


def tensors(options, vocab):
    d, ff, kv = options.hidden, options.ff, options.hidden // options.heads * options.kv_heads
    yield "token_embd.weight", (vocab, d)
    for layer in range(options.layers):
        for name, shape in [
            ("attn_norm", (d,)),
            ("attn_q", (d, d)),
            ("attn_k", (kv, d)),
            ("attn_v", (kv, d)),
            ("attn_output", (d, d)),
            ("ffn_norm", (d,)),
            ("ffn_gate", (ff, d)),
            ("ffn_up", (ff, d)),
            ("ffn_down", (d, ff)),
        ]:
            yield f"blk.{layer}.{name}.weight", shape
    yield "output_norm.weight", (d,)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out")
    for name, value in [("hidden", 2048), ("layers", 16), ("ff", 8192), ("heads", 32), ("kv-heads", 8)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()

    reader = gguf.GGUFReader(options.model)
    vocab = next(int(t.shape[1]) for t in reader.tensors if t.name == "token_embd.weight")
    writer = gguf.GGUFWriter(options.out, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(options.hidden)
    writer.add_block_count(options.layers)
    writer.add_feed_forward_length(options.ff)
    writer.add_head_count(options.heads)
    writer.add_head_count_kv(options.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(options.hidden // options.heads)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    copy_tokenizer(reader, writer)

    random = np.random.default_rng(0)
    for name, shape in tensors(options, vocab):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            continue
        weights = random.standard_normal(shape, np.float32) * np.float32(0.02)
        raw = gguf.quantize(weights, gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
