"""The names of the files inside a run's artifacts, by the stage that writes them."""

IMAGES, QUARANTINE = "images.arrow", "quarantine.arrow"  # manifest; IMAGES: pool
NEAR = "near_duplicates.arrow"  # near-duplicates
LABELS = "labels.arrow"  # labels
PARTITION = "partition.arrow"  # partition
BANDS = "bands.arrow"  # bands: the scale of each
LEVELS = "levels.arrow"  # levels: the black and white point of 16-bit images
IGNORED, MASKS = "ignored.png", "masks.arrow"  # ignored: the pixels that are not looked at, of all images or of each
LAYERS = "layers.arrow"  # features
DETECTOR, TRAINED_ON = "detector.safetensors", "trained_on.arrow"  # fit
TRAINING_LOG, IMPORTANCE = "training_log.arrow", "importance.arrow"  # fit, by descent; where its loss is weighted
SCORES = "scores.arrow"  # score: of a shard of images; scores: the matrix
PURIFIED = "purified.arrow"  # purify
PIXEL_COUNTS, LEFT_OUT = "pixel_counts.arrow", "left_out.arrow"  # pixels: of a large test set
THRESHOLD, HELD_OUT = "threshold.json", "held_out.arrow"  # threshold
PIXEL_LEVELS = "pixel_levels.arrow"  # threshold, where there are held-out maps
OVERRIDES = "overrides.arrow"  # overrides: decisions by hand
CONTAMINATION, WHAT_IF = "contamination.json", "what_if.arrow"  # purify, where the keep ratio is estimated
METRICS, IMAGE_SCORES = "metrics.json", "image_scores.arrow"  # evaluate

CHECKPOINTS = "checkpoints"  # a folder beside the artifacts, of unfinished fits
