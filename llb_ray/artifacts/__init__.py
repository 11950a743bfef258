"""Immutable, content-addressed stage outputs: resume, reuse and the audit trail are this one mechanism.

A `Recipe` names what makes an artifact: stage, settings, and the *contents* of its inputs.  Its key is the
folder's name, ``<root>/<stage>/<key>/``.  A folder is built under a temporary name, sealed with a completion
record (``record.json``, written last) and moved into place in one rename: it is either complete or absent.

Inputs enter a key by content, not by the key of what made them, so an artifact that comes out the same (a
manifest read again from a copied folder, say) leaves everything after it finished.  Nothing that differs between
two undisturbed runs (a time, a host, a path) may be written inside an artifact; such facts go to the event log.

A store may be the working copy of one at a URI, in the same layout.  What counts is then the record there:
it is uploaded last, asked for at every look, and where two machines made one artifact the first one's stays.  Files
are brought here by name, when somebody reads them.
"""

from llb_ray.artifacts.artifact import FORMAT_VERSION, RECORD, Artifact, Recipe, digest, load
from llb_ray.artifacts.content import has_digest
from llb_ray.artifacts.store import Store

__all__ = ["FORMAT_VERSION", "RECORD", "Artifact", "Recipe", "Store", "digest", "has_digest", "load"]
