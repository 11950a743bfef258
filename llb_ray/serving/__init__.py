"""A run's detector as a web service: what is said over HTTP, without Ray (`llb_ray.distributed.ray_serve` has that)."""
