"""Whether voxels can be HU; a wrong rescale is found by its values."""

import numpy as np


def implausible(array: np.ndarray, modality: str = "ct") -> str | None:
    """What about the values [D, H, W] of a CT does not look like HU; None where all is well."""
    sample = array[:: max(1, array.shape[0] // 64), ::4, ::4] if array.size > 10**6 else array
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        return f"all voxels are {low:g}. Export the scan again."
    if modality != "ct":
        return None
    if high - low < 16:
        return f"values run from {low:g} to {high:g} and are not HU. Take the original scan."
    if low >= 0:
        return (
            f"no value is below 0 (lowest {low:g}): the rescale intercept (often -1024) is "
            "missing. Apply it, or use --modality mr if this is not a CT."
        )
    # Lungs of a scan whose intercept was added twice; noisy air lies higher, padding is even.
    odd = sample[(sample > -1950) & (sample < -1250)]
    if odd.size > 0.1 * sample.size and np.unique(odd).size > 64:
        return (
            f"{100 * odd.size / sample.size:.0f} % of voxels lie in -1950..-1250 HU, where nothing "
            "is: the rescale was applied twice. Read the file by its own header alone."
        )
    tissue = np.count_nonzero((sample > -200) & (sample < 300)) / sample.size
    if tissue < 0.01:
        return (
            f"only {100 * tissue:.2f} % of voxels lie in -200..300 HU, where soft tissue is. "
            "The rescale was applied twice or not at all; export the scan again."
        )
    return None
