"""Landmarks: one a token is dense attention, more come closer, and segments follow true lengths."""

import pytest
import torch

from models.mixers.exact.transformer import Transformer
from models.mixers.low_rank.nystromformer import Nystromformer, segment_means, segments


def pair(landmarks, **knobs):
    torch.manual_seed(0)
    dense = Transformer(12, heads=2, max_len=64, causal=False).double().eval()
    mixer = Nystromformer(
        12, heads=2, max_len=64, causal=False, num_landmarks=landmarks, conv_kernel=0, **knobs
    )
    mixer.load_state_dict(dense.state_dict())
    return dense, mixer.double().eval()


@pytest.mark.parametrize("n", [1, 7, 24])
def test_a_landmark_a_token_is_dense_attention(n):
    dense, mixer = pair(24)
    x = torch.randn(2, n, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), dense(x), atol=1e-12, rtol=1e-12)


def test_more_landmarks_come_closer():
    x = 0.5 * torch.randn(2, 64, 12, dtype=torch.float64)
    distance = []
    for landmarks in (2, 32):
        dense, mixer = pair(landmarks, pinv_iters=20)
        distance.append((mixer(x) - dense(x)).norm() / dense(x).norm())
    assert distance[1] < 0.5 * distance[0]


def test_equals_the_formula_with_the_true_pseudo_inverse():
    _, mixer = pair(4, pinv_iters=30)
    x = torch.randn(1, 16, 12, dtype=torch.float64)
    q, k, v, _ = mixer.project(x)
    near_q, near_k = (t.unflatten(2, (4, 4)).mean(3) for t in (q, k))
    scale = 6**-0.5
    f, a, b = (
        (left @ right.mT * scale).softmax(-1)
        for left, right in ((q, near_k), (near_q, near_k), (near_q, k))
    )
    wanted = f @ torch.linalg.pinv(a) @ b @ v
    torch.testing.assert_close(mixer.attend(q, k, v, None), wanted, atol=1e-6, rtol=1e-5)


def test_segments_follow_the_true_length_and_leave_holes_out():
    x = torch.arange(12.0).reshape(1, 1, 12, 1)
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, :8] = True
    mask[0, 3] = False
    index, count = segments(x, mask, 4)
    assert index[0, :8].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert count[0].tolist() == [2, 1, 2, 2]
    means = segment_means(x * mask[:, None, :, None], index, count)
    assert means[0, 0, :, 0].tolist() == [0.5, 2.0, 4.5, 6.5]
