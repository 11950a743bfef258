"""The filters: which images the final detector is trained on.  One file each; `extensions.FILTERS` names them."""
