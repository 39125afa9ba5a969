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

MAX_DYNAMICS = 1e-9  # added to the power, so that the equations stay solvable for a pure tone


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
    from scipy.signal import lfilter, oaconvolve

    if not y[-order:].any():
        return np.zeros(n)
    coefficients = predictor(y, order)
    error = oaconvolve(y[-n - order :], coefficients)[order : min(n + order, len(y))]
    drive = np.zeros(n)
    drive[: len(error)] = error[::-1]
    # What scipy.signal.lfiltic returns, which takes as long as all the rest.
    state = -np.correlate(coefficients[1:], y[: -order - 1 : -1], "full")[order - 1 :]
    return lfilter([1.0], coefficients, drive, zi=state)[0]


def predictor(y: np.ndarray, order: int) -> np.ndarray:
    """Coefficients 1, a[1], ..., a[order] of the prediction of ``y``, shape (samples,), which is not silent."""
    from scipy.fft import irfft, rfft
    from scipy.linalg import solve_toeplitz

    spectrum = rfft(y * np.hanning(len(y) + 2)[1:-1], 2 * len(y))
    r = irfft(np.square(np.abs(spectrum)))[: order + 1]
    r /= r[0]
    r[0] += MAX_DYNAMICS
    return np.concatenate(([1.0], -solve_toeplitz(r[:-1], r[1:], check_finite=False)))
