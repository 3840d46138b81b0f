"""What is seen: scans, images and videos, from their files to the model's input.

    sources       what a path holds: a volume, an image or a video
    types         Volume, Frames, and the header of a scan that has none of its own
    reader        path -> Volume in HU with its affine (nifti, dicom below it)
    preparation   what a preparation is: the settings
    geometry      a preparation carried out: Volume -> int16 [D, H, W] on the model's grid
    store         prepared volumes on disk, verified (content_store: what it shares with images)
    images        reading, preparing and storing images and videos
    perturb       the perturbations of the robustness loss
    pool          one function over many cases in processes

Without imports, so that `python -m photon --help` answers at once.
"""
