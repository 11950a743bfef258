"""A hook of mkdocs: pages of the repository that are not in docs/ are pages of the site too.

The README is its home.  Links are written for readers of the repository; in the site all pages are below one root.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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
    for path in sorted(found for pattern in OUTSIDE for found in ROOT.glob(pattern)):
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, content=_rebased(path.read_text(), posixpath.dirname(place))))
    return files


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
