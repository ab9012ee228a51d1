"""DPC-KNN: cluster centres by density peaks (Rodriguez & Laio 2014; Du et al. 2016), deterministic."""

from .torch import Peaks, dpc_knn

__all__ = ["Peaks", "dpc_knn"]
