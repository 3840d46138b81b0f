"""Photon: 3D medical visual question answering with instruction-conditioned token pruning.

`import photon` costs nothing, and makes exports known to Hugging Face's Auto classes as soon as
those are imported (`photon.weights.auto`).
"""

from photon.imports import when_imported

when_imported("transformers.models.auto.configuration_auto", "photon.weights.auto", "register")
