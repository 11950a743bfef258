"""A folder elsewhere, wherever a `pyarrow.fs` URI points, and its working copy on this machine.

Every method takes a path in the working copy and means the file of that name at the URI, so the two have one layout.
What an error, a log or a `repr` says of a URI is never its credentials nor its query.
"""

from llb_ray.remote.copy import Remote, local_folder, locate

__all__ = ["Remote", "local_folder", "locate"]
