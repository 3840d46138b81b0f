"""Reading, preparing, storing and perturbing volumes.

Deliberately without imports: `photon.commands.volumes` must load without torch, so that
`python -m photon --help` answers at once. Import from the modules:

    reader    read_volume, read_labels          path -> Volume in HU with its affine
    geometry  Preparation, prepare_volume       Volume -> int16 [D, H, W] on the model's grid
    store     VolumeStore                       prepared volumes on disk, verified
    perturb   perturb, sample_perturbation      the six perturbations of the robustness loss

(`nifti`, `dicom` and `sampling` do the work below `reader` and `geometry`; `preparing` and
`checking` the work below the two commands.)
"""
