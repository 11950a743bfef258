"""``python -m llb_ray`` is ``llb-ray``."""

from llb_ray.cli import main

main()
