"""A hook of mkdocs: pages of the repository that are not in docs/ are pages of the site too.

The README is its home, and what click prints is the page of commands.  Links are written for readers of the repository;
in the site all pages are below one root.
"""

import posixpath
import re
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from llb_ray.cli import main

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "cluster/README.md",
    "examples/README.md",
    "benchmarks/*.md",
)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ and those from outside of it."""
    files.append(File.generated(config, "index.md", content=_rebased((ROOT / "README.md").read_text(), "")))
    files.append(File.generated(config, "commands.md", content=_commands()))
    for path in sorted(found for pattern in OUTSIDE for found in ROOT.glob(pattern)):
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, content=_rebased(path.read_text(), posixpath.dirname(place))))
    return files


def _commands() -> str:
    """Every command as `--help` prints it."""
    program = click.Context(main, info_name="llb-ray", **main.context_settings)
    pages = ["# Commands\n\nAs `--help` prints them. [Exit status and `--json`](file-formats.md#exit-status).\n"]
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, program, name, terminal_width=80)
        pages.append(f"## llb-ray {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(pages)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links out of docs/ as links to pages of the site; code keeps its comments."""
    return markdown if page.file.generated_by else _rebased(markdown, "docs")


def _rebased(markdown: str, folder: str) -> str:
    """The text of a page in a folder of the repository, its relative links as they have to be in the site."""
    here = "" if folder == "docs" else folder

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target == "README.md":
            target = "index.md"
        elif (ROOT / target).is_dir():
            target = "results.md"  # a folder of benchmarks has no page: the results link to each
        return "](" + posixpath.relpath(target.removeprefix("docs/"), here or ".")

    return _LINK.sub(link, markdown)
