"""Results that others have published on Real-IAD's FUIAD protocol; never measured here, never mixed with what is."""

SOURCE = (
    "published, not measured here: Real-IAD, FUIAD protocol, mean of 30 categories, from the released code of "
    "arXiv 2508.07441"
)
HEADER = ["alpha", "method", "I-AUROC", "AUPRO"]
_METHODS = ("PatchCore", "SoftPatch", "RD", "UniAD", "LLB (Dinomaly)")
_RESULTS = {  # I-AUROC and P-AUPRO (limit 0.3) in percent, by alpha, in the order of the methods
    0.0: (("91.3", "92.6"), ("91.4", "92.1"), ("89.3", "95.0"), ("85.4", "87.6"), ("93.4", "95.9")),
    0.1: (("90.4", "93.2"), ("90.9", "92.9"), ("88.1", "95.1"), ("84.2", "87.7"), ("91.5", "95.8")),
    0.2: (("89.5", "93.0"), ("90.5", "92.9"), ("87.3", "94.9"), ("82.8", "87.3"), ("89.8", "95.6")),
    0.4: (("88.1", "92.4"), ("89.3", "92.5"), ("84.5", "94.7"), ("80.1", "86.6"), ("87.0", "94.8")),
}
BODY = [
    [f"{alpha:g}", method, *figures]
    for alpha, row in _RESULTS.items()
    for method, figures in zip(_METHODS, row, strict=True)
]
