"""HiPPO-LegS, the matrix that state space models start from, in the basis of its normal part."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def legs_matrix(n: int) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """A and B of HiPPO-LegS, fp64 (Gu et al. 2020, arXiv 2008.07669, eq. 2 of appendix D).

    A_ij = -sqrt((2i+1)(2j+1)) below the diagonal and -(i+1) on it; B_i = sqrt(2i+1).
    """
    order = torch.arange(n, dtype=torch.float64)
    root = (2 * order + 1).sqrt()
    return -(root[:, None] * root).tril(-1) - torch.diag(order + 1), root


def legs_low_rank(n: int) -> Float[Tensor, " n"]:
    """P with A + P P^T normal: P_i = sqrt(i + 1/2) (Gu et al. 2022, arXiv 2111.00396, thm 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5).sqrt()


def legs_normal(n: int) -> tuple[Complex[Tensor, " J"], Complex[Tensor, "n J"]]:
    """Eigenvalues with positive imaginary part of A + P P^T, and their orthonormal vectors.

    A + P P^T is -1/2 plus a skew-symmetric matrix (arXiv 2206.11893, appendix): J = n/2 pairs.
    """
    matrix, _ = legs_matrix(n)
    low_rank = legs_low_rank(n)
    normal = matrix + low_rank[:, None] * low_rank
    # -i times the skew part is Hermitian: real eigenvalues, orthonormal vectors
    w, v = torch.linalg.eigh(-1j * (normal + 0.5 * torch.eye(n)))
    # ascending, and symmetric about 0
    w, v = w[n // 2 :], v[:, n // 2 :]
    return torch.complex(torch.full_like(w, -0.5), w), v
