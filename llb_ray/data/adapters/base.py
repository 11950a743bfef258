"""The base class of the adapters of data set layouts."""

from abc import ABC, abstractmethod
from pathlib import Path

from llb_ray.config import AdapterTraits, DatasetConfig
from llb_ray.data.adapters.entries import Draft


class Adapter(AdapterTraits, ABC):
    """Reads data sets of one layout; `extensions.DATASETS` names its class."""

    @abstractmethod
    def read(self, config: DatasetConfig) -> Draft:
        """The images that the data set's own tables or folders list, and what is wrong with others.

        Raises DataError where there is nothing to read.
        """

    def official_alphas(self, root: Path) -> list[float]:
        """The anomalous shares at which the data set's authors contaminated its training sets themselves, rising."""
        return []
