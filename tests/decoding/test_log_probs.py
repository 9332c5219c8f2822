"""What is accepted as log-probabilities, and what is refused."""

import math

import numpy as np
import pytest

from crnn.decoding.ctc import check_log_probs, log_probs_shape
from crnn.errors import DataError


def test_shape():
    assert log_probs_shape(np.zeros((4, 7, 3), dtype=np.float16)) == (4, 7, 3)
    assert log_probs_shape(np.zeros((0, 0, 2))) == (0, 0, 2)
    for shape in [(4, 5), (1, 2, 3, 4), (2, 3, 1)]:
        with pytest.raises(DataError, match=r"expected \(N, T, V\) with at least 2 classes"):
            log_probs_shape(np.zeros(shape))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_accepts_what_log_softmax_gives(dtype, random_log_probs):
    for num_classes in (2, 37, 95, 7000):
        check_log_probs(np.full((1, 2, num_classes), -math.log(num_classes), dtype=dtype), num_classes)
        check_log_probs(random_log_probs(0, 3, 4, num_classes, 5.0, dtype))
    certain = np.full((1, 1, 3), -np.inf, dtype=dtype)
    certain[..., 2] = 0.0
    check_log_probs(certain, None)
    for shape in [(2, 0, 5), (0, 7, 5)]:
        check_log_probs(np.zeros(shape, dtype=dtype), 5)


@pytest.mark.parametrize(
    ("log_probs", "num_classes", "message"),
    [
        (np.zeros((4, 5)), None, r"shape \(4, 5\); expected \(N, T, V\)"),
        (np.zeros((1, 2, 3, 4)), None, r"shape \(1, 2, 3, 4\)"),
        (np.zeros((2, 3, 1)), None, r"shape \(2, 3, 1\).*at least 2 classes"),
        (np.zeros((2, 3, 37), dtype=np.int64), None, r"type int64; expected float16, float32 or float64"),
        (np.full((2, 3, 2), math.log(0.5)), 37, r"so 2 classes; expected 37"),
        (np.full((2, 3, 2), -np.inf), None, r"\(n, t\) = \(0, 0\) the probabilities sum to 0, not to 1"),
        (np.full((2, 3, 2), np.inf), None, r"sum to inf, not to 1"),
        (np.full((2, 3, 2), 1000.0), None, r"sum to inf, not to 1"),
    ],
)
def test_check_refuses(log_probs, num_classes, message):
    with pytest.raises(DataError, match=message):
        check_log_probs(log_probs, num_classes)


def test_check_names_the_first_bad_step():
    log_probs = np.full((3, 4, 2), math.log(0.5))
    log_probs[1, 2] += 0.0015
    log_probs[2, 0] = np.nan
    with pytest.raises(DataError, match=r"\(n, t\) = \(1, 2\) the probabilities sum to 1.0015, not to 1"):
        check_log_probs(log_probs)
    log_probs[1, 2] -= 0.0006  # within 1e-3
    with pytest.raises(DataError, match=r"\(n, t\) = \(2, 0\) the probabilities are not numbers \(nan\)"):
        check_log_probs(log_probs)
