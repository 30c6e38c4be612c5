"""Three steps of recovery of a random tiny model in float64, by autograd and Adam written out."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import model_fixtures

# The dense model is this variant's fixture: biases, and a head of its own.
VARIANT = "llama3-scaled"
RATE, BETAS, EPSILON = 0.01, (0.9, 0.99), 1e-12
# Level of each step, the sequences of its batch, and the most by which it may change the KL, of itself.
STEPS = [(0, [0, 1], 0.3), (1, [2, 3], 0.1), (0, [3, 1], 1e9)]
SHARES = (0.7, 0.4)  # of full rank, by level


class Factored(torch.nn.Module):
    """Pivoted: y[I] += P x, y[rest] += C^T P x per block. Plain: y = U^T V x on a prefix of the ranks."""

    def __init__(self, blocks, bias, outputs):
        super().__init__()
        self.blocks = blocks  # of {"P", "C", "I"} or the one {"V", "U"}
        self.bias, self.outputs, self.rank = bias, outputs, 0

    def forward(self, x):
        if "V" in self.blocks[0]:
            v, u = self.blocks[0]["V"][: self.rank], self.blocks[0]["U"][: self.rank]
            return (x @ v.T) @ u + self.bias
        y, used = torch.zeros(*x.shape[:-1], self.outputs, dtype=x.dtype), 0
        for block in self.blocks:
            if used == self.rank:
                break
            t = x @ block["P"].T
            rest = [o for o in range(self.outputs) if o not in set(block["I"].tolist())]
            y = y.index_add(-1, block["I"], t).index_add(-1, torch.tensor(rest), t @ block["C"])
            used += len(t[0, 0])
        return y + self.bias


def pivoted(W, ranks, generator):
    """Blocks up to the falling `ranks`, lowest first: exact rows of what the blocks before left, and a fit."""
    blocks, used, left = [], 0, W.clone()
    for rank in sorted(ranks):
        s = rank - used
        pivot = torch.randperm(len(W), generator=generator)[:s].sort().values
        rest = torch.tensor([o for o in range(len(W)) if o not in set(pivot.tolist())])
        P = left[pivot] + 0.02 * torch.randn(s, W.shape[1], generator=generator, dtype=W.dtype)
        C = (left[rest] @ torch.linalg.pinv(P)).T.contiguous()
        blocks.append({"P": P, "C": C, "I": pivot})
        left = left.clone()
        left[pivot] -= P
        left[rest] -= C.T @ P
        used = rank
    return blocks


def plain(W, ranks):
    u, s, v = torch.linalg.svd(W, full_matrices=False)
    most = max(ranks)
    return [{"V": (v * s[:, None])[:most].contiguous(), "U": u.T[:most].contiguous()}]


def rows_scale(W):
    """Root mean square of every row; at least 1e-3 of the matrix's."""
    return W.square().mean(1).sqrt().clamp_min(1e-3 * W.square().mean().sqrt())


def make(out):
    folder = out / VARIANT
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    tokens = load_file(folder / "expected.safetensors")["tokens"].long()
    build = lambda: model_fixtures.in_float64(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32)
    )
    teacher, student = build(), build()
    for model in (teacher, student):
        model.load_state_dict(weights, strict=True)
    generator = torch.Generator().manual_seed(5)

    levels, factored, expected = [[], []], {}, {}
    for index, (name, module) in enumerate(model_fixtures.projections(student).items()):
        W = module.weight.detach()
        ranks = [max(1, int(share * min(W.shape))) for share in SHARES]
        if index % 3 == 0:
            ranks = [-1, -1]
        else:
            blocks = pivoted(W, ranks, generator) if index % 3 == 1 else plain(W, ranks)
            # The values as the C++ side reads them.
            blocks = [{k: v if k == "I" else v.float().double().requires_grad_() for k, v in b.items()} for b in blocks]
            factored[name] = Factored(blocks, module.bias.detach(), len(W))
            student.set_submodule(name, factored[name])
            for b, block in enumerate(blocks):
                for key, value in block.items():
                    stored = f"{name}.{key}" + (f".{b}" if "I" in block else "")
                    expected[stored] = value.detach().clone().int() if key == "I" else value.detach().float()
        for level, rank in zip(levels, ranks):
            level.append(rank)
    order = list(model_fixtures.projections(teacher))
    assert order == [n for n, m in student.named_modules() if n.endswith("_proj")]

    matrices = [(f"{n}.{k}" + (f".{b}" if "I" in block else ""), block[k])
                for n, m in factored.items() for b, block in enumerate(m.blocks) for k in block if k != "I"]
    moments = {n: [torch.zeros_like(v), torch.zeros_like(v), torch.zeros(len(v), 1, dtype=v.dtype)] for n, v in matrices}
    scales = {n: rows_scale(v.detach())[:, None] for n, v in matrices}
    figures = []
    for level, windows, change in STEPS:
        for name, module in factored.items():
            module.rank = levels[level][order.index(name)]
        batch = tokens[windows]
        with torch.no_grad():
            target = F.log_softmax(teacher(batch, use_cache=False).logits, -1)
        logits = student(batch, use_cache=False).logits
        kl = F.kl_div(F.log_softmax(logits, -1), target, log_target=True, reduction="none").sum(-1).mean()
        gradients = torch.autograd.grad(kl, [v for _, v in matrices], allow_unused=True)
        with torch.no_grad():
            steps, most = [], 0.0
            for (name, value), gradient in zip(matrices, gradients):
                if gradient is None:
                    continue
                # A level reads whole blocks, or the first rows; the other rows take no part in the step.
                owner = factored[name.rsplit(".", 1)[0] if name[-1] in "UV" else name.rsplit(".", 2)[0]]
                rows = owner.rank if name[-1] in "UV" else len(value)
                mean, square, count = (part[:rows] for part in moments[name])
                g = gradient[:rows]
                count += 1
                mean.mul_(BETAS[0]).add_((1 - BETAS[0]) * g)
                square.mul_(BETAS[1]).add_((1 - BETAS[1]) * g * g)
                denominator = (square / (1 - BETAS[1] ** count)).sqrt() + EPSILON
                steps.append((value[:rows], scales[name][:rows] * (mean / (1 - BETAS[0] ** count)) / denominator))
                most += (g * steps[-1][1]).abs().sum().item()
            rate = min(RATE, change * kl.item() / most)
            for value, step in steps:
                value -= rate * step
        figures.append([kl.item(), rate, model_fixtures.token_losses(logits.detach(), batch).mean().item()])
    for name, value in matrices:
        expected[f"after.{name}"] = value.detach().float()
        expected[f"mean.{name}"] = moments[name][0].float()
        expected[f"square.{name}"] = moments[name][1].float()
    expected["levels"] = torch.tensor(levels, dtype=torch.int32)
    expected["figures"] = torch.tensor(figures, dtype=torch.float64)
    file = out / "recover.safetensors"
    save_file({k: v.contiguous() for k, v in expected.items()}, file)
    file.chmod(0o644)
    print(f"recover: KL, rate and loss of the steps {figures}, {file.stat().st_size} bytes")
