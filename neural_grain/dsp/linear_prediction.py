"""The continuation of a sound beyond its edges by linear prediction (LPC).

Each sample is predicted from the ``order`` samples before it, with the coefficients a that leave the smallest error e:

    y[t] = e[t] - sum over k of a[k] y[t - k],   k from 1 to order

(Makhoul, "Linear prediction: A tutorial review", Proc. IEEE 63(4), 1975; autocorrelation method). Beyond the edge the
same formula goes on with the mirror image of e. Tones have almost no error and continue in their phase; noise is all
error and continues as noise of the same colour and level. A mirror image of the sound itself would bend every tone at
the edge, and silence would break it off: either is a click.

In: the samples next to an edge, (n, channels). Out: the samples on the other side of it.
"""

from __future__ import annotations

import numpy as np

WHITE_NOISE_CORRECTION = 1e-9  # added to the power, so that the equations stay solvable for a pure tone
STEP_SAMPLES = 64  # computed at a time, which takes a fifth of the time of single ones


def continue_edge(edge: np.ndarray, n: int, order: int) -> np.ndarray:
    """Continue a sound for ``n`` samples beyond its edge. Digital silence continues as silence.

    Parameters
    ----------
    edge : np.ndarray, shape (samples, channels), the sample at the edge first
    n : int > 0
    order : int > 0, coefficients; at most a quarter of the samples

    Returns
    -------
    np.ndarray, shape (n, channels), float32, the sample next to the edge first
    """
    order = min(order, len(edge) // 4)
    return np.stack([_continued(y[::-1].astype(float), n, order) for y in edge.T], axis=1).astype(np.float32)


def _continued(y: np.ndarray, n: int, order: int) -> np.ndarray:
    """What follows the samples ``y``."""
    if not y[-order:].any():
        return np.zeros(n)
    coefficients = prediction_coefficients(y, order)
    error = np.convolve(y[-n - order :], coefficients, "valid")
    drive = np.zeros(-(-n // STEP_SAMPLES) * STEP_SAMPLES)
    drive[: len(error)] = error[::-1]
    return _all_pole_filter(drive, coefficients, y[-order:])[:n]


def _all_pole_filter(x: np.ndarray, coefficients: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What ``scipy.signal.lfilter([1], coefficients, x)`` gives after the outputs ``before``, one for each coefficient.

    The import of scipy.signal would take longer than all the rest. In a step of m samples, the formula above is a
    system of linear equations with the same matrices in every step.
    """
    order, m = len(before), STEP_SAMPLES
    matrix = np.zeros((m, order + m))
    for i in range(m):
        matrix[i, i : i + order + 1] = coefficients[::-1]
    of_x = np.linalg.inv(matrix[:, order:])
    of_before = -of_x @ matrix[:, :order]
    y = np.concatenate((before, np.empty_like(x)))
    for t in range(0, len(x), m):
        y[order + t : order + t + m] = of_x @ x[t : t + m] + of_before @ y[t : t + order]
    return y[order:]


def prediction_coefficients(y: np.ndarray, order: int) -> np.ndarray:
    """Coefficients 1, a[1], ..., a[order] of the prediction of ``y``, shape (samples,), which is not silent."""
    from scipy.fft import irfft, rfft
    from scipy.linalg import solve_toeplitz

    spectrum = rfft(y * np.hanning(len(y) + 2)[1:-1], 2 * len(y))
    r = irfft(np.square(np.abs(spectrum)))[: order + 1]
    r /= r[0]
    r[0] += WHITE_NOISE_CORRECTION
    return np.concatenate(([1.0], -solve_toeplitz(r[:-1], r[1:], check_finite=False)))
