"""Lightning's side of Photon: modules, callbacks, checkpoints and the check of the configuration.

`photon/` knows nothing of this package; `train.py` and `eval.py` use it.
"""
