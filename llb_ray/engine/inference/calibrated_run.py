"""A finished run as far as verdicts depend on it, without its networks: a driver may lack the GPU that these need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from llb_ray.artifacts import Artifact
from llb_ray.config import RunConfig
from llb_ray.data.ignored_regions import NO_MASKS, MaskPaths
from llb_ray.data.image_masks import IgnoredPixels
from llb_ray.data.listing import nearest
from llb_ray.detectors.factory import encoder_fingerprint
from llb_ray.engine.features.encoding import FeatureExtractor
from llb_ray.engine.features.ignored_pixels import read_ignored
from llb_ray.engine.features.measured_bands import read_scale
from llb_ray.engine.features.measured_levels import read_levels
from llb_ray.engine.inference.photograph_masks import PhotographMasks
from llb_ray.engine.inference.regions import ANY, RegionFinder
from llb_ray.engine.inference.verdicts import Calibration, threshold_categories
from llb_ray.engine.pixel_grid import PixelGrid
from llb_ray.engine.rundir.run_artifacts import RunArtifacts
from llb_ray.engine.rundir.run_folder import RunFolder
from llb_ray.ensemble.pixel_threshold import FALSE_AREA_RATE
from llb_ray.errors import ArtifactError, ConfigError, WeightsError

_NAME_ONE = "each has scores and a threshold of its own; name that of the images (category=NAME, --category NAME)"


@dataclass(frozen=True)
class VerdictSettings:
    """Settings of verdicts besides the run: thresholds other than its own, the category and masks of new images."""

    threshold: float | None = None  # of scores; None: the run's own, or that of the rate
    false_alarm_rate: float | None = None
    false_area_rate: float = FALSE_AREA_RATE  # of the pixel threshold
    category: str | None = None  # of all images; None: the only one, or that of each
    masks: MaskPaths = NO_MASKS


_AS_THE_RUN = VerdictSettings()


@dataclass(frozen=True)
class CalibratedRun:
    """A run's way of reading photographs, and its thresholds."""

    config: RunConfig
    photographs: FeatureExtractor
    final: Artifact  # the detector
    calibrations: Mapping[str, Calibration]  # by category; of the category `ANY` where the run has one
    masks: PhotographMasks | None = None  # of a run in which each photograph has its own

    @classmethod
    def of(cls, folder: RunFolder, settings: VerdictSettings = _AS_THE_RUN) -> "CalibratedRun":
        """That of the run in a folder; `TrainedDetector.load` says what is raised, of masks `PhotographMasks.of`."""
        config, made = folder.config(), folder.made()
        ignored = read_ignored(made.ignored, config)
        photographs = _photographs(folder, config, made, ignored)
        if made.threshold is None:
            raise ArtifactError(
                f"{folder.where}: threshold.method=none, so nothing says which score is anomalous; "
                "run (or scan) again with threshold.method=members, which reuses all that is finished"
            )
        calibrations = _calibrations(made.threshold, PixelGrid.of(config, ignored), settings)
        masks = PhotographMasks.of(ignored, config, settings.masks)
        return cls(config, photographs, made.final, calibrations, masks)

    @property
    def calibration(self) -> Calibration:
        """The only calibration; raises ConfigError where there are several categories."""
        return self.calibrations[self.category(None)]

    @property
    def finds_regions(self) -> bool:
        """True if the run keeps held-out maps."""
        return all(calibration.regions is not None for calibration in self.calibrations.values())

    def category(self, name: str | None) -> str:
        """The key of `calibrations` for images of the category `name`, which need not be named where there is one.

        Raises ConfigError for an unknown one, and for None where there are several.
        """
        if name is not None:
            return _known(name, self.calibrations)
        if len(self.calibrations) > 1:
            raise ConfigError(f"the run is of several categories ({', '.join(self.calibrations)}): {_NAME_ONE}")
        return next(iter(self.calibrations))

    @property
    def batch_size(self) -> int:
        """Number of images that are judged at once."""
        return self.config.detector.images_at_once(self.config.resources.batch_size)


def _photographs(
    folder: RunFolder, config: RunConfig, made: RunArtifacts, ignored: IgnoredPixels | None
) -> FeatureExtractor:
    """The run's way of encoding images; raises WeightsError where its encoder is no longer what it was."""
    fingerprint, root = encoder_fingerprint(config.detector), folder.index().data_root
    scales = read_scale(made.bands), read_levels(made.levels), ignored
    found = FeatureExtractor(root, config.data.max_pixels, config.detector, fingerprint, *scales)
    if found.key != made.final.inputs["encoder"]:
        raise WeightsError(
            f"{folder.where}: the backbone's weights or library versions are no longer those of the run; "
            "put the same file and versions back, or run again"
        )
    return found


def _calibrations(made: Artifact, grid: PixelGrid, settings: VerdictSettings) -> dict[str, Calibration]:
    """The calibrations by category; raises ConfigError for a threshold that is given for several categories."""
    known = threshold_categories(made)
    names = known if settings.category is None else [_known(settings.category, known)]
    if settings.threshold is not None and len(names) > 1:
        raise ConfigError(f"a threshold for several categories ({', '.join(names)}): {_NAME_ONE}")
    moved = settings.threshold, settings.false_alarm_rate
    return {
        name: Calibration.of(made, RegionFinder.of(made, settings.false_area_rate, grid, name), name).moved(*moved)
        for name in names
    }


def _known(name: str, names: Collection[str]) -> str:
    """The name, where it is one of these categories; raises ConfigError otherwise."""
    if name in names:
        return name
    if ANY in names:
        raise ConfigError(f"category {name!r}: the run is of one category, whose images need no name; leave it out")
    raise ConfigError(f"category {name!r}: the run has none of that name; {nearest(name, names)}")
