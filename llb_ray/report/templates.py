"""The files of pages: templates that escape, and the style and script that a page's policy lets through."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """A template whose values are escaped."""
    environment = Environment(
        loader=PackageLoader("llb_ray.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def resource(name: str) -> str:
    """The text of a page's file."""
    return files("llb_ray.report").joinpath("page", name).read_text()


def digest_of(text: str) -> str:
    """The hash by which a Content-Security-Policy allows a script or style, and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
