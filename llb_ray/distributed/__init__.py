"""The only package that imports ray: it wraps the plain workers of `llb_ray.engine` from outside."""
