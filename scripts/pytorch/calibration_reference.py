"""Float64 references of the calibration mathematics, written as plainly as its definitions.

One projection W (m x n) saw, in sequence s, inputs x_t (n) and output gradients g_t (m) of the
sequence's summed next-token loss. Every function takes X [S, T, n], G [S, T, m] and W [m, n], all
float64; S sequences of T tokens.
"""

import torch

JITTER = 1e-8  # of the mean diagonal, added only to the matrix that gets inverted
CLIP = (0.1, 10.0)  # of the sequence's mean gradient norm
NOISE = 1e-5  # of that mean: below it a gradient is rounding (a first token has no other to attend to)


def clipped(G):
    """G with each token's norm clipped to CLIP times the mean norm over the T tokens of its sequence.

    A gradient that is zero but for rounding (as the last token's, which predicts nothing) counts in the
    mean and is not raised: its direction means nothing.
    """
    norms = G.norm(dim=-1, keepdim=True)
    mean = norms.mean(dim=1, keepdim=True)
    wanted = norms.clamp(CLIP[0] * mean, CLIP[1] * mean)
    return torch.where(norms > NOISE * mean, G * (wanted / norms.clamp_min(1e-300)), G)


def second_moment(V):
    """Sum of v v^T over all tokens: [S, T, k] -> [k, k]."""
    flat = V.flatten(0, 1)
    return flat.T @ flat


def scores(X, G, W):
    """The three importance scores, from each sequence's weight gradient G_s = sum_t g_t x_t^T."""
    gradients = torch.einsum("stm,stn->smn", G, X)
    return {
        "fisher": ((gradients * W) ** 2).sum().item(),
        "gradient": (gradients**2).sum().item(),
        "taylor": (gradients * W).abs().sum().item(),
    }


def jittered(M):
    return M + JITTER * M.diagonal().mean() * torch.eye(len(M), dtype=M.dtype)


def square_root(M):
    """L with L L^T = M for a symmetric, perhaps singular M: no inverse is taken of it."""
    values, vectors = torch.linalg.eigh(M)
    return vectors * values.clamp_min(0).sqrt()


def weighting(A, B, W):
    """La [n, n] and Lb [m, m] of the norm ||Lb^T (W - W_r) La||; B = None stands for the identity.

    The thin side's matrix is the one whose root gets inverted, so it is a Cholesky factor of the
    jittered matrix (an identity needs no jitter).
    """
    m, n = W.shape
    identity = torch.eye(m, dtype=W.dtype)
    if m <= n:
        return square_root(A), identity if B is None else torch.linalg.cholesky(jittered(B))
    return torch.linalg.cholesky(jittered(A)), identity if B is None else square_root(B)


def truncation_errors(A, B, W):
    """[min(m, n) + 1]: at r, the least ||Lb^T (W - W_r) La|| over all W_r of rank r."""
    La, Lb = weighting(A, B, W)
    return tails(torch.linalg.svdvals(Lb.T @ W @ La))


def plain_errors(W):
    """[min(m, n) + 1]: at r, the least ||W - W_r|| over all W_r of rank r."""
    return tails(torch.linalg.svdvals(W))


def tails(singular):
    """Root of the sum of squares from r on, for r = 0..len."""
    squares = torch.cat([singular.flip(0).square().cumsum(0).flip(0), singular.new_zeros(1)])
    return squares.sqrt()


def factors(A, B, W):
    """Nested factors U [m, k], V [k, n], k = min(m, n): U[:, :r] V[:r] is optimal for every r."""
    m, n = W.shape
    La, Lb = weighting(A, B, W)
    if m <= n:
        _, E = torch.linalg.eigh(Lb.T @ W @ A @ W.T @ Lb)
        E = E.flip(1)
        return torch.linalg.solve_triangular(Lb.T, E, upper=True), E.T @ Lb.T @ W
    middle = W.T @ W if B is None else W.T @ B @ W
    _, Z = torch.linalg.eigh(La.T @ middle @ La)
    Z = Z.flip(1)
    # V = Z^T La^-1, solved from the right.
    return W @ La @ Z, torch.linalg.solve_triangular(La, Z.T, upper=False, left=False)


def curve(X, G, W, U, V):
    """[k + 1]: E(r) = 1/2 sum_t (g_t . W x_t - sum_{j <= r} (u_j . g_t)(v_j . x_t))^2, unclipped g."""
    x, g = X.flatten(0, 1), G.flatten(0, 1)
    whole = (g * (x @ W.T)).sum(1, keepdim=True)
    parts = ((g @ U) * (x @ V.T)).cumsum(1)
    left = torch.cat([whole, whole - parts], dim=1)
    return 0.5 * left.square().sum(0)


def references(X, G, W):
    """Every reference of one projection: {suffix: float64 tensor}, and its scores."""
    A, B = second_moment(X), second_moment(clipped(G))
    tensors = {
        "A": A,
        "B": B,
        "error.none": plain_errors(W),
        "error.input": truncation_errors(A, None, W),
        "error.two-sided": truncation_errors(A, B, W),
        "curve.input": curve(X, G, W, *factors(A, None, W)),
        "curve.two-sided": curve(X, G, W, *factors(A, B, W)),
    }
    return tensors, scores(X, G, W)
